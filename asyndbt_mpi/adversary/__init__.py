"""Malicious workers, to study what a run withstands."""
