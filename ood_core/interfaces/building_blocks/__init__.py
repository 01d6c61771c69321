"""Parts that several plugin packages build networks and tasks from."""
