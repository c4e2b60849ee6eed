"""Which PyTorch build a machine gets, and why."""
