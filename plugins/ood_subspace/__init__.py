"""What lies outside of the principal subspace of the training embeddings, as scores."""
