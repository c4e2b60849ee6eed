"""How child processes are started, watched and ended with all that they started."""
