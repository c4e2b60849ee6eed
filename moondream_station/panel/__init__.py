"""The status panel of the terminal, drawn from the station's state alone."""
