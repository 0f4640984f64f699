"""Settings: what there is to choose, recipes, methods, and how they are put on top of each other. Without torch."""
