"""Comparisons: the spec and its grid, the folder, the runs, the numbers, the tables and the figure.

`attar.comparison.run` computes all runs of a comparison, `attar.comparison.cells` one of them.
"""
