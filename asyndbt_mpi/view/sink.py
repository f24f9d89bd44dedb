"""Where the records of a run go: into its log, and onto the screen."""

from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.records import Event, EventKind, Record
from asyndbt_mpi.view.progress import Progress

TOLD = {
    EventKind.EXCLUDED: "is excluded",
    EventKind.LOST: "is lost",
    EventKind.RETURNED: "is back, and starts afresh",
}
"""What the user should hear of as it happens."""


class LogAndProgress:
    """The sink of a run: every record goes to the log and to the progress bar."""

    def __init__(self, writer: Writer, progress: Progress) -> None:
        self.writer = writer
        self.progress = progress
        self._names: dict[int, str] = {}

    def write(self, records: list[Record]) -> None:
        """Log the records, and show what they say."""
        for record in records:
            self.writer.write(record)
            self.progress.update(record)
            if isinstance(record, Event):
                self._tell(record)

    def _tell(self, event: Event) -> None:
        if event.kind is EventKind.HELLO:
            # With the host and the device: where to look if it is lost.
            self._names[event.worker] = f"worker {event.worker} ({event.text})"
        elif event.kind in TOLD:
            name = self._names.get(event.worker, f"worker {event.worker}")
            reason = f": {event.text}" if event.text else ""
            self.progress.say(f"{name} {TOLD[event.kind]}{reason}")

    def idle(self) -> None:
        """Nothing arrives: what is buffered may as well be written, events alone too."""
        self.writer.flush_if_due()
