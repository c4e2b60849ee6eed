"""Decides which images a question is asked about, in what order, and what is kept of the answers."""
