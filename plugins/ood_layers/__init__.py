"""Scores from layers before the embeddings."""
