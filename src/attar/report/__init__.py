"""The report of a run, one HTML page, and pictures of a set."""
