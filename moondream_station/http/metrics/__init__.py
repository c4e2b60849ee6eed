"""How the station is observed from outside: Prometheus asks for its figures, a log has its requests."""
