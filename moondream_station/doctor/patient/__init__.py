"""Who is examined, and the facts that several checks need, each found out once."""
