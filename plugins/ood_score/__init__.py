"""`ood score`: new images from the command line, scored in constant memory, as CSV, JSON Lines or a table."""
