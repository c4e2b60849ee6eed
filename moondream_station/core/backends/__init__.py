"""Backends: the manifest that names them, their code, and the workers that run it."""
