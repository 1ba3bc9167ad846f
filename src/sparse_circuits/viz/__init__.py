"""The view document and the pages drawn from it."""
