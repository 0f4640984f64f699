"""Which real images: embeddings, clusters, core-sets."""
