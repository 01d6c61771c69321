"""Scores from the part of an embedding outside of the principal subspace of the training embeddings."""
