"""Environments: locked, downloaded, built, verified, committed."""
