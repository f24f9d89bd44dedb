"""Bytes on the disk: what is written is there whole, whatever happens."""
