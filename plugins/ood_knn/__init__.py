"""Nearest training embeddings as scores."""
