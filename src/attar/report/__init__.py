"""The page and the pictures that people look at."""
