"""Scores from the nearest training embeddings."""
