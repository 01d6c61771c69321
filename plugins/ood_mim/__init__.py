"""Pretext task `mim`, masked image modelling in the manner of BEiT, and the tokenizer `kmeans`."""
