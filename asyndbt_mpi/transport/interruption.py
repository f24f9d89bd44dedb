"""A signal that ends a process's current work, under any transport."""


class Interrupted(BaseException):
    """The process was asked to end, by the named signal.

    No `Exception`: code that turns all of those into errors of its own must let it pass.
    """
