"""Capability against circuit size: grids of models, each trained, evaluated and pruned, and their curves."""
