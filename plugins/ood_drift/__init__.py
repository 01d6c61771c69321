"""Drift: whether new images still score as the calibration images did; the command `ood drift`."""
