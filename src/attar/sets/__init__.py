"""The product: stored synthetic images, how they are decoded, and their files."""
