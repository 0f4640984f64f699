"""Fresh networks trained on a set and tested on real images, and the protocol of that."""
