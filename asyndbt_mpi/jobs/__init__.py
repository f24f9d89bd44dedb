"""A run from its configuration to server, workers and log, and back from its log."""
