"""Installing into the interpreter that runs: for the facade alone, never for a backend."""
