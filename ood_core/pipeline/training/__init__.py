"""The loop that trains any task: `schedule`, `engine` and `checkpoint`; it knows no pretext."""
