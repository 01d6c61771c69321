"""Scores that read the logits alone."""
