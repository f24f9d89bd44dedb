"""Asynchronous distributed bilevel tuning of prompts over MPI (AsynDBT; Ma et al., 2026)."""

__version__ = "0.1.0"
