"""Where the records of a run go: to its log and to the screen."""

from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.view.progress import Progress

NEWS = {
    EventKind.DROPPED: "sent a message that was dropped",
    EventKind.EXCLUDED: "is excluded",
    EventKind.LOST: "is lost",
    EventKind.RETURNED: "is back, and starts afresh",
}
"""What the user is told when it happens."""


class LogAndProgress:
    """The sink of a run: every record goes to the log and to the progress bar."""

    def __init__(self, writer: Writer, progress: Progress) -> None:
        self.writer = writer
        self.progress = progress
        self._names: dict[int, str] = {}

    def write(self, records: list[Record]) -> None:
        """Log the records, and show them."""
        for record in records:
            self.writer.write(record)
            self.progress.update(record)
            if isinstance(record, Event):
                self._tell(record)

    def _tell(self, event: Event) -> None:
        if event.kind is EventKind.HELLO:
            # With host and device, to know where to look if the worker is lost.
            self._names[event.worker] = f"worker {event.worker} ({event.text})"
        elif event.kind in NEWS:
            name = self._names.get(event.worker, f"worker {event.worker}")
            reason = f": {event.text}" if event.text else ""
            self.progress.say(f"{name} {NEWS[event.kind]}{reason}")

    def idle(self) -> None:
        """While nothing arrives, write what is buffered, even if it is only events."""
        self.writer.flush_if_due()
        self.progress.idle()
