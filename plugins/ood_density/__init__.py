"""Densities and one-class boundaries of the embeddings, fitted by scikit-learn, as scores."""
