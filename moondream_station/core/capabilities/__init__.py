"""What this machine can do: the snapshot, its detection and its cache."""
