"""A signal that ends a process's current work, under any transport."""


class Interrupted(Exception):
    """The process was asked to end, by the named signal."""
