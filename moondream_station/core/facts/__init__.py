"""What is known: facts, errors, states and choices, as frozen data without I/O."""
