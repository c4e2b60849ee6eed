"""One small file a vendor: what it asks, and what the answers mean."""
