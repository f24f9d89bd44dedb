"""Figures of logs: `asyndbt plot`."""
