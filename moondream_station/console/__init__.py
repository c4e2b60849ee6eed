"""How a command prints, logs, is interrupted and ends."""
