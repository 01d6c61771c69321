"""Scores from density estimators and one-class boundaries of the embeddings, fitted by scikit-learn."""
