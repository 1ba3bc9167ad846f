"""Benchmarks: one command that prints ours, the other, the ratio and the unit, measured side by side on this machine."""
