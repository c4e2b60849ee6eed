"""How files come over the network and when one counts as downloaded."""
