"""Pretext tasks `supcon`, the training of SSD+, and `simclr`, that of SSD: contrast with and without labels."""
