"""The station without its edges: facts, effects and the orchestrator that joins them."""
