"""The station without its edges: what an activation decides and does, floor by floor."""
