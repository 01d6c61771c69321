"""Scores from Mahalanobis distances of the embeddings."""
