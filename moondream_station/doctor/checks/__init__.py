"""What the doctor examines, one module a subject."""
