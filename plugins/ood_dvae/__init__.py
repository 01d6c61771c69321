"""Tokenizers `dvae`, a discrete autoencoder trained here, and `dalle`, the published encoder from a file."""
