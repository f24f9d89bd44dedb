"""Builds a run (server, workers and log) from its configuration, or again from its log."""
