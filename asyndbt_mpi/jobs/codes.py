"""Exit codes of every command."""

DONE, FAILED, BAD_USAGE = 0, 1, 2

TOO_FEW_WORKERS = 3
"""Of a run with fewer than `algorithm.min_workers` workers left."""
