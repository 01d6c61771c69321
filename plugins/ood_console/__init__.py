"""Shows a run on the console: progress while it lasts, the table at its end."""
