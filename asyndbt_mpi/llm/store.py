"""A language model's answers on disk, so that a job that was killed never pays for them again.

    folder/3f0c.../worker-1.answers     one folder for all that an answer depends on,
                   worker-2.answers     one file for each worker

Locks of cluster file systems are not to be relied upon.  So every worker appends to a file of its
own and reads everybody's; records have a fixed size and a checksum, and whatever else is found
between or behind them is passed over.  Two processes of one number (a job that is still dying,
and the next) append whole records to one file, which does neither any harm.

No text is ever written, only digests: whoever has a text can tell whether it was asked.

Answers are believed as if the model gave them now.  So what is not this user's own, or others may
write, is not read (`asyndbt_mpi.inputs.ownership`).
"""

import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.inputs import ownership
from asyndbt_mpi.inputs.ownership import NotOwn

Question: TypeAlias = tuple[str, tuple[str, ...]]
"""The prompt's whole text and the labels: all that a model's answer depends on."""

MAGIC = b"asyndbt\n"
VERSION = 2
"""Raise it when files, or the way in which a back-end asks, change: older answers are not used."""

DIGEST_BYTES = 16
CHECKSUM = struct.Struct("<I")
HEADER = struct.Struct("<8sII32s")
"""Magic, version, U and the digest of the identity."""

BLOCK_RECORDS = 1 << 14

MOST_FILE_BYTES = 1 << 31
"""Of a worker's file: some ten million answers, which nobody has paid for."""

MOST_NATS = 1e6
"""No answer of a model is further from zero."""


class StoreError(Exception):
    """The folder or the worker's own file cannot be used; one line that says why."""


@dataclass(slots=True)
class _Seen:
    """A file as it was last read: its size, and where its last good record ends."""

    size: int = 0
    end: int = 0


class AnswerStore:
    """Answers by the digest of the prompt's text, in memory and in the files of ``folder``.

    In memory an answer takes about 140 + 8 U bytes.  Every answer is kept there, also when the
    disk is full: then there is one warning, and nothing is written any more.

    A record is on its way to the disk as soon as `put` returns.  It survives the process, also
    ``kill -9``, for it is in the kernel's hands; fsync would save it from a crash of the whole
    machine, too, and that is not worth waiting for.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    identity : mapping of str to str
        All that an answer depends on besides prompt and labels.  Other identities have other
        files, and never share an answer.
    labels : sequence of U str
        Those that every question is about.
    worker : int, optional
        Number of the file to append to; None only reads what there is, and makes no folder.

    Raises
    ------
    StoreError
        The folder or the worker's file cannot be made, read or written, has another header, or is
        not this user's own.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        labels: Sequence[str],
        worker: int | None,
    ) -> None:
        self.labels = tuple(labels)
        everything = json.dumps([VERSION, sorted(identity.items()), self.labels])
        digest = blake2b(everything.encode(), digest_size=32).digest()
        self._above = folder
        self.folder = folder / digest[:16].hex()
        self._header = HEADER.pack(MAGIC, VERSION, len(self.labels), digest)
        self._record_bytes = DIGEST_BYTES + 8 * len(self.labels) + CHECKSUM.size
        # As long as some records: were two processes to begin a file at once, the second header
        # would be one more thing that is no record, and the records still lie where they should.
        self._header += bytes(-len(self._header) % self._record_bytes)
        self._row: dict[bytes, int] = {}
        self._values = np.empty((1024, len(self.labels)))
        self._seen: dict[str, _Seen] = {}
        self._own = self.folder / f"worker-{worker}.answers"
        self._writing = worker is not None
        self._doubted: set[str] = set()
        self._open()
        self._look()

    def __len__(self) -> int:
        return len(self._row)

    def get(self, questions: Iterable[Question]) -> dict[Question, NDArray[np.float64]]:
        """The answers (U,) that are known, those included that others have paid for by now.

        Raises
        ------
        ValueError
            A question is about other labels.
        """
        digests = {question: self._digest(question) for question in questions}
        if any(digest not in self._row for digest in digests.values()):
            self._look()
        return {
            question: self._values[self._row[digest]].copy()
            for question, digest in digests.items()
            if digest in self._row
        }

    def put(self, answers: Mapping[Question, NDArray[np.float64]]) -> None:
        """Keep ``answers`` (U,) but those that are not finite: the run ends on those."""
        records = []
        for question, answer in answers.items():
            if np.isfinite(answer).all():
                record = self._digest(question) + np.asarray(answer, "<f8").tobytes()
                records.append(record + CHECKSUM.pack(zlib.crc32(record)))
                self._remember(record[:DIGEST_BYTES], answer)
        if self._writing and records:
            self._append(b"".join(records))

    # ------------------------------------------------------------------------------------ memory

    def _digest(self, question: Question) -> bytes:
        text, labels = question
        if labels != self.labels:
            raise ValueError(f"the stored answers are for the labels {self.labels}, not {labels}")
        # A lone surrogate is no reason to give up: nobody reads the bytes.
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()

    def _remember(self, digest: bytes, answer: NDArray[np.float64]) -> None:
        """The first answer counts, so that a question has the same one to the end."""
        if digest in self._row:
            return
        row = self._row[digest] = len(self._row)
        if row == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[row] = answer

    # ----------------------------------------------------------------------------------- reading

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder's descriptor: what is opened in it is in that one, whoever moves names."""
        above = ownership.open_folder(self._above)
        try:
            folder = ownership.open_folder(self.folder.name, above)
        finally:
            os.close(above)
        try:
            yield folder
        finally:
            os.close(folder)

    def _look(self) -> None:
        """Read what is new at the ends of all files."""
        try:
            with self._opened() as folder, os.scandir(folder) as entries:
                sizes = {
                    entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if entry.name.endswith(".answers")
                }
                for name, size in sizes.items():
                    if self._seen.setdefault(name, _Seen()).size != size:
                        self._read(folder, name, size)
        except NotOwn as error:
            self._doubt("", error.why)
        except OSError:
            return  # not there (any more): nothing is known but what is in memory

    def _read(self, folder: int, name: str, size: int) -> None:
        seen = self._seen[name]
        if size < seen.end:
            seen.end = 0  # its owner has cut it, or somebody has begun it anew
        if size > MOST_FILE_BYTES:
            return self._doubt(name, f"has more than {MOST_FILE_BYTES} bytes")
        try:
            descriptor = ownership.open_file(name, os.O_RDONLY, folder)
        except NotOwn as error:
            return self._doubt(name, error.why)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            try:
                self._read_on(file, seen)
            except OSError:
                return None
        seen.size = size
        return None

    def _read_on(self, file: BinaryIO, seen: _Seen) -> None:
        """Read records from where the last good one ended."""
        if not seen.end:
            if file.read(len(self._header)) != self._header:
                return  # in the making, or none of ours
            seen.end = len(self._header)
        file.seek(seen.end)
        block = BLOCK_RECORDS * self._record_bytes
        blocks = iter(lambda: file.read(block), b"")
        seen.end += self._take(blocks)

    def _doubt(self, name: str, why: str) -> None:
        """Warn, once, that something is not read."""
        if name not in self._doubted:
            self._doubted.add(name)
            warnings.warn(f"{self.folder / name} {why}: its answers are not used", stacklevel=2)

    def _take(self, blocks: Iterator[bytes]) -> int:
        """Remember the good records; bytes up to the end of the last one.

        What follows it may still be on its way, and is read again.
        """
        end = start = 0
        for block in blocks:
            for place in range(0, len(block) - self._record_bytes + 1, self._record_bytes):
                record = block[place : place + self._record_bytes]
                content = record[: -CHECKSUM.size]
                if CHECKSUM.unpack(record[-CHECKSUM.size :]) == (zlib.crc32(content),):
                    answer = np.frombuffer(content, "<f8", offset=DIGEST_BYTES)
                    if (np.abs(answer) < MOST_NATS).all():
                        self._remember(content[:DIGEST_BYTES], answer)
                    end = start + place + self._record_bytes
            start += len(block)
        return end

    # ----------------------------------------------------------------------------------- writing

    def _open(self) -> None:
        """Make the folder and the worker's file; cut off what a kill left at its end."""
        try:
            if self._writing:
                ownership.make_folder(self._above)
                ownership.make_folder(self.folder)
            with self._opened() as folder:
                if self._writing:
                    self._begin(folder)
        except FileNotFoundError:
            if self._writing:
                raise StoreError(f"{self._own}: has disappeared") from None
        except NotOwn as error:
            raise StoreError(f"{self._above / (error.filename or '')}: {error.why}") from error
        except OSError as error:
            raise StoreError(f"{self._own}: {error.strerror or error}") from error

    def _begin(self, folder: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            file = ownership.open_file(self._own.name, flags, folder)
        except NotOwn as error:
            raise StoreError(f"{self._own}: {error.why}") from error
        try:
            self._begin_file(folder, file)
        finally:
            os.close(file)

    def _begin_file(self, folder: int, file: int) -> None:
        header = os.pread(file, len(self._header), 0)
        if header != self._header and self._header.startswith(header):
            if header:  # torn by a kill
                os.ftruncate(file, 0)
            _write(file, self._header)
        elif header != self._header:
            raise StoreError(
                f"{self._own}: holds no answers of this model and template, or is damaged;"
                " move it away"
            )
        size = os.fstat(file).st_size
        if size > MOST_FILE_BYTES:
            raise StoreError(f"{self._own}: has more than {MOST_FILE_BYTES} bytes; move it away")
        self._seen[self._own.name] = _Seen()
        self._read(folder, self._own.name, size)
        end = self._seen[self._own.name].end
        if 0 < end < size:
            os.ftruncate(file, end)

    def _append(self, records: bytes) -> None:
        """Write ``records`` at once; what goes wrong costs the file, not the run."""
        try:
            # Opened anew each time, for closing is what makes others on NFS see it.
            with self._opened() as folder:
                file = ownership.open_file(self._own.name, os.O_WRONLY | os.O_APPEND, folder)
            try:
                self._cut_torn_record(file)
                try:
                    _write(file, records)
                except OSError:
                    self._cut_torn_record(file)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            self._writing = False
            warnings.warn(
                f"{self._own}: {error.strerror or error}; the run continues, but new answers are"
                " not kept on disk",
                stacklevel=2,
            )

    def _cut_torn_record(self, file: int) -> None:
        """What comes behind part of a record would be out of step."""
        size = os.fstat(file).st_size
        if size % self._record_bytes:
            os.ftruncate(file, size - size % self._record_bytes)


def _write(file: int, content: bytes) -> None:
    """All of it, in one piece unless the disk is full: the next piece then says so."""
    while content:
        content = content[os.write(file, content) :]
