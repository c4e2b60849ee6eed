"""How PyTorch is installed into the interpreter that runs, for the facade alone."""
