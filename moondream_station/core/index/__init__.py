"""Which wheels the indexes list."""
