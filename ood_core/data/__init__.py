"""Data sets: opening sources, decoding pictures, selecting images, loading batches."""
