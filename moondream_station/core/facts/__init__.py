"""What is known and said: facts, errors, states and choices, as frozen data that knows no I/O."""
