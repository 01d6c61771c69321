"""Runs of plans: scheduling of jobs, executors, worker processes, lock files."""
