"""Which exact wheels satisfy the requirements on the chosen build."""
