"""Mahalanobis distances of the embeddings as scores."""
