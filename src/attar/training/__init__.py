"""Supervised training: augmentation, batches, one loop, and the early-stage models that it makes."""
