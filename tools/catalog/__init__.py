"""Keeps the catalog of PyTorch builds fresh: reads indexes and wheels, and shows a reviewer what differs."""
