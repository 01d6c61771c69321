"""Scores that read layers in front of the embeddings."""
