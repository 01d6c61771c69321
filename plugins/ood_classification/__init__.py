"""Pretext tasks `classification` and `one-class`: the labels themselves, with label smoothing."""
