"""Finds what would go wrong with a run before it is started and costs anything."""
