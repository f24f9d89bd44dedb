"""What can be wrong with a log, and with writing one."""


class LogError(ValueError):
    """The file is no log that this version can read; one line that names it and says why."""


class LogWriteError(OSError):
    """The log cannot be written (any more); one line that names it and says what is safe."""
