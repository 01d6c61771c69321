"""Pretext tasks `simmim` and `mae`: hidden patches are predicted as pixels."""
