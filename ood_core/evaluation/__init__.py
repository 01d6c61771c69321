"""Detection metrics, their significance, and calibrated thresholds."""

TPR = 0.95
"""Share of ID images to accept: of FPR@95, and of a detector's threshold by default."""

CONFIDENCE = 0.95
"""Probability that an interval holds the true value."""
