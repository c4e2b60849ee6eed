"""What the station answers over HTTP."""
