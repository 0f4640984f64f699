"""One function for each use."""
