"""The classification data sets of torchvision, by name."""
