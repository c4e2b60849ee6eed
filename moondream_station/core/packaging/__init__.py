"""What the user's own packaging configuration says."""
