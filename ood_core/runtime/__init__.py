"""The process and the machine: distributed training, memory, torch's global state."""
