"""What the terminal's panel shows of the station's state."""
