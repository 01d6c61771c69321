"""Scores from the states of single neurons."""
