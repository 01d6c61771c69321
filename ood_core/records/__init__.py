"""Plain values that the other packages pass on: stages and plans, results, what a report holds."""
