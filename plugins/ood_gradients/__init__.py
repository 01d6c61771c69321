"""Scores that send the image through the network again, most of them for a gradient."""
