"""Supervised training: augmentation, batches, the training loop, and the early-stage models trained with it."""
