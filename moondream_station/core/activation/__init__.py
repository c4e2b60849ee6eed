"""What becomes the active model: one activation from its request to its commit."""
