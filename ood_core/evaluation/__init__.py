"""Detection metrics, their significance, and calibrated thresholds."""
