"""What the doctor checks, one module a subject, and the facts that several checks need."""
