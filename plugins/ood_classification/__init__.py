"""Pretext task `classification`: the labels themselves, with label smoothing."""
