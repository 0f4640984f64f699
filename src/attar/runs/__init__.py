"""A run on disk: its folder, its checkpoint, going on with it, what it says."""
