"""Comparisons: what a spec asks for, what its folder remembers, the numbers, the tables and the figure.

How a cell is computed stands in `attar.comparison.cells`, how all of them are in `attar.comparison.show`.
"""
