"""Which models and backends there are, and how their code gets into the home."""
