"""What is wrong with a machine or a station, and what to do about it."""
