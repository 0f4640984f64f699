"""Real images, from wherever they come."""
