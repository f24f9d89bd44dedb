"""That a signal ends what a process is at, in whatever transport."""


class Interrupted(Exception):
    """The process was asked to end by the signal that is named."""
