"""What `models` and `status` show of a home."""
