"""How a backend runs in a process of its own, and whether torch computes there as planned."""
