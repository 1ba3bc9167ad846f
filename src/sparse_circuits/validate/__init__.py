"""Showing that a circuit is real."""
