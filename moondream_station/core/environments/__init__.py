"""When an environment is whole, and which environments there are."""
