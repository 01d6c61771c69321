"""What a report says, collected from plan, results and store."""
