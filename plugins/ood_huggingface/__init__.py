"""Data sets of the Hugging Face hub, through the library `datasets`."""
