"""Decoded images on disk, so that a second start needs no decoding."""
