"""Distances to the class means, and geometry of the classifier's decision boundaries, as scores."""
