"""The file beneath HDF5: what changes in it reaches the disk as a whole or not at all.

HDF5 changes a file in place and at many points: an index of chunks that is split, a compressed
chunk that moves, a text that is replaced. A kill amid that leaves a file that cannot be read, or
that reads wrong. So HDF5 writes here into memory, and `JournaledFile.commit` brings it to the disk:
first what lies beyond the end of the last commit, where nothing refers to yet; then the other
pages, first all of them as a journal at the file's end, then each in its place. Until the journal
is whole the file is that of the last commit, from then on that of this one: whoever opens it here
finds the journal's pages in their places.

That is about processes that are killed: nothing here waits for the disk, and a node that loses its
power may leave pages in their places, but not the journal.

The last bytes of a file that is being written, or whose writer was killed, are its trailer: the
commit's number, and how long the journal before it is, 0 for none. A file that was closed ends
where HDF5 says.
"""

import contextlib
import errno
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from asyndbt_mpi.log.storage.preallocate import reserve

PAGE = 4096
BLOCK = 512
"""Of the operating system's count of a file's blocks."""
SPARE_BYTES = 1 << 20
"""Kept free for the commit with which a file is closed."""
MARK = b"asyndbtJ"
TRAILER = struct.Struct("<8sQQQI4x")  # within a page, and so written at once
EXTENT = struct.Struct("<QQ")
NOT_REGULAR = "is no regular file"
HDF5_ERRORS = (OSError, RuntimeError, SystemError)
"""What h5py raises; the last where a method of `JournaledFile` failed: see `cause_of`."""


class Trailer(NamedTuple):
    """Of a file: the number of its newest commit, where HDF5's part of it ends, and its journal's
    length and checksum."""

    number: int
    end: int
    length: int
    checksum: int


class JournaledFile:
    """The file at ``path`` for h5py, which takes an object with these methods for a file.

    To be read, unless it is ``writable``; then nobody else may write it. It is as it was when it
    was opened for as long as `changed` says no.

    Attributes
    ----------
    error : what made HDF5's reads or writes fail, of which HDF5 does not hear: it would not let go
        of the file any more, and end the process with a segmentation fault; without its traceback,
        whose frames would hold on to HDF5's buffers until it is gone
    close : let go of the file; to do so again does nothing

    Raises
    ------
    OSError
        It is not there, is no regular file, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], writable: bool = False) -> None:
        self._handle = open_regular(path, os.O_RDWR if writable else os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._handle)
        self.close.atexit = False  # HDF5 lets go of its files even later
        self._position = 0
        # Pages that are not in their places yet, by their numbers; that written last comes last.
        self._pages: dict[int, memoryview] = {}
        self._trailer: Trailer | None = None
        self.error: BaseException | None = None
        self.refresh()
        self._committed_end = self._next_end = _whole_pages(self._end)

    def refresh(self) -> None:
        """Take the file as it is on the disk by now, whatever has become of its name."""
        self._end = os.fstat(self._handle).st_size
        self._pages = {}
        self.error = None
        self._trailer = _read_trailer(self._handle)
        if self._trailer is not None:
            self._end = self._trailer.end
        if self._trailer is not None and self._trailer.length:
            self._take_pages(_read_journal(self._handle, self._trailer))

    @property
    def size(self) -> int:
        """Bytes of the file on the disk."""
        return os.fstat(self._handle).st_size

    @property
    def stored(self) -> int:
        """Those of them that take room: without holes, which read as zeros.

        A file system that compresses stores all of them, in fewer blocks.
        """
        found = os.fstat(self._handle)
        if found.st_blocks * BLOCK >= found.st_size:
            return found.st_size
        total = end = 0
        while end < found.st_size:
            try:
                start = os.lseek(self._handle, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    break
                raise
            end = os.lseek(self._handle, start, os.SEEK_HOLE)
            total += end - start
        return total

    def changed(self) -> bool:
        """Whether there was a commit, or one has begun, since the file was opened or refreshed."""
        return _read_trailer(self._handle) != self._trailer

    # ------------------------------------------------------------ what HDF5 asks for

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to ``offset``, counted from the end if ``whence`` says so."""
        self._position = offset + (self._end if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """Where the next read or write is."""
        return self._position

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, whatever they are where HDF5 has written nothing."""
        start, self._position = self._position, self._position + size
        try:
            return self._read(start, size)
        except BaseException as error:  # see `error`
            self.error = error.with_traceback(None)
            return bytes(size)

    def write(self, data: memoryview) -> int:
        """Keep ``data`` for the next commit."""
        view = memoryview(bytes(data))
        start, self._position = self._position, self._position + len(view)
        try:
            self._write(start, view)
        except BaseException as error:
            self.error = error.with_traceback(None)
        return len(view)

    def truncate(self, end: int) -> int:
        """HDF5 says where its file ends."""
        self._end = end
        return end

    def flush(self) -> None:
        """Nothing yet: see `commit`."""

    def _read(self, start: int, size: int) -> bytes:
        end = start + size
        on_disk = os.pread(self._handle, size, start).ljust(size, b"\0")
        if not self._pages:
            return on_disk
        found = bytearray(on_disk)
        for page in _pages_of(start, end):
            if page in self._pages:
                low, high = max(start, page * PAGE), min(end, (page + 1) * PAGE)
                content = self._pages[page]
                found[low - start : high - start] = content[low - page * PAGE : high - page * PAGE]
        return bytes(found)

    def _write(self, start: int, view: memoryview) -> None:
        for page in _pages_of(start, start + len(view)):
            low = page * PAGE - start
            part = view[max(low, 0) : low + PAGE]
            if len(part) < PAGE:
                part = self._with(page, max(-low, 0), part)
            self._pages.pop(page, None)
            self._pages[page] = part

    # ------------------------------------------------------------ what the writer asks for

    def commit(self, spare: int = SPARE_BYTES) -> None:
        """Bring to the disk what HDF5 has written, and leave ``spare`` bytes of room behind it.

        Pages get to their places in the order in which they were written last: who reads without
        heeding the journal does not find a number of rows before the rows.

        Raises
        ------
        OSError
            HDF5 could not read the file, there is no room, or it cannot be written; the file is
            that of the last commit or, if the journal is whole, of this one.
        """
        if self.error is not None:
            raise self.error
        self._next_end = _whole_pages(self._end)
        extents = [each for each in self._extents() if each[0] < self._next_end]
        known = [each for each in extents if each[0] < self._committed_end]
        journal = _journal_of(known) if known else b""
        end = max(self._next_end, self._committed_end)
        size = self._make_room(end + len(journal) + TRAILER.size, spare)
        for offset, content in extents:
            if offset >= self._committed_end:
                self._put(content, offset)
        number = self._trailer.number + 1 if self._trailer else 1
        self._put(journal, size - TRAILER.size - len(journal))
        checksum = zlib.crc32(journal)
        self._put_trailer(Trailer(number, self._end, len(journal), checksum), size)
        if journal:
            self._settle(known, size)
        self._pages = {}
        self._committed_end = self._next_end

    def finish(self) -> None:
        """Bring the pages of a journal that is whole to their places."""
        if self._trailer is not None and self._trailer.length:
            self._settle(list(self._extents()), os.fstat(self._handle).st_size)
            self._pages = {}

    def recover(self) -> None:
        """After a commit that failed: forget it or, where its journal is whole, finish it."""
        self.refresh()
        if self._trailer is not None and self._trailer.length:
            self.finish()
            self._committed_end = self._next_end

    def cut(self) -> None:
        """Cut off what lies behind HDF5's end: the room and the trailer."""
        os.ftruncate(self._handle, self._end)

    # ------------------------------------------------------------ within

    def _with(self, page: int, start: int, part: memoryview) -> memoryview:
        """The page as it is, but for ``part`` of it from ``start`` on."""
        known = self._pages.get(page)
        content = bytearray(os.pread(self._handle, PAGE, page * PAGE) if known is None else known)
        content.extend(bytes(PAGE - len(content)))
        content[start : start + len(part)] = part
        return memoryview(content)

    def _extents(self) -> Iterator[tuple[int, bytes]]:
        """The pages in their order, neighbours joined: offset and content of each extent."""
        run: list[memoryview] = []
        start = end = 0
        for page, content in self._pages.items():
            # None lies on both sides of the last commit's end.
            if page * PAGE != end or end == self._committed_end:
                if run:
                    yield start, b"".join(run)
                run, start = [], page * PAGE
            run.append(content)
            end = (page + 1) * PAGE
        if run:
            yield start, b"".join(run)

    def _make_room(self, needed: int, spare: int) -> int:
        """The file's size, made larger if ``needed`` and ``spare`` bytes do not fit into it."""
        size = os.fstat(self._handle).st_size
        if needed + spare <= size and size % PAGE == 0:
            return size
        larger = needed + spare + (SPARE_BYTES // 2 if spare else 0)  # not at every commit
        larger = -(-max(larger, size) // PAGE) * PAGE
        try:
            if not reserve(self._handle, size, larger - size):
                os.ftruncate(self._handle, larger)
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        if self._trailer is not None:
            self._put_trailer(self._trailer, larger)
        return larger

    def _settle(self, extents: list[tuple[int, bytes]], size: int) -> None:
        """Bring a journal's ``extents`` to their places; then there is none any more."""
        for offset, content in extents:
            self._put(content, offset)
        assert self._trailer is not None
        self._put_trailer(self._trailer._replace(length=0, checksum=0), size)

    def _put_trailer(self, trailer: Trailer, size: int) -> None:
        self._put(TRAILER.pack(MARK, *trailer), size - TRAILER.size)
        self._trailer = trailer

    def _put(self, content: bytes, offset: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._handle, view, offset)
            view, offset = view[written:], offset + written

    def _take_pages(self, extents: list[tuple[int, bytes]]) -> None:
        for offset, content in extents:
            for start in range(0, len(content), PAGE):
                page = (offset + start) // PAGE
                self._pages[page] = memoryview(content)[start : start + PAGE]


def open_regular(path: str | os.PathLike[str], flags: int) -> int:
    """`os.open` of a regular file; a pipe, which could be waited for, or a device is not touched.

    Raises
    ------
    OSError
        It is none, is not there, or cannot be opened.
    """
    # Looked at before, for to open a device can do something, and after: it may be another by now.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(NOT_REGULAR)
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(NOT_REGULAR)
    return handle


def cause_of(error: BaseException) -> BaseException:
    """What made a method of `JournaledFile` fail, where h5py says only that one did."""
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def finish(path: str | os.PathLike[str]) -> None:
    """Bring the pages of a journal that a killed writer has left in the file to their places.

    Then programs that do not know of journals find the file whole, too. A file that may not be
    written stays as it is.
    """
    if os.access(path, os.W_OK):
        with contextlib.closing(JournaledFile(path, writable=True)) as file:
            file.finish()


def _pages_of(start: int, end: int) -> range:
    """Numbers of the pages on which the bytes from ``start`` to ``end`` lie."""
    return range(start // PAGE, -(-end // PAGE))


def _whole_pages(end: int) -> int:
    return -(-end // PAGE) * PAGE


def _journal_of(extents: list[tuple[int, bytes]]) -> bytes:
    """Offset and length of each extent, closed by zeros, and then what they contain."""
    heads = [EXTENT.pack(offset, len(content)) for offset, content in extents]
    return b"".join([*heads, EXTENT.pack(0, 0), *(content for _, content in extents)])


def _read_trailer(handle: int) -> Trailer | None:
    """None if the file has none."""
    size = os.fstat(handle).st_size
    if size < TRAILER.size:
        return None
    found = os.pread(handle, TRAILER.size, size - TRAILER.size)
    if len(found) < TRAILER.size:  # it has become shorter just now
        return None
    mark, *numbers = TRAILER.unpack(found)
    return Trailer(*numbers) if mark == MARK else None


def _read_journal(handle: int, trailer: Trailer) -> list[tuple[int, bytes]]:
    """The extents; none if the journal is not whole: it was written over in the meantime."""
    end = os.fstat(handle).st_size - TRAILER.size
    journal = os.pread(handle, trailer.length, end - trailer.length)
    if len(journal) < trailer.length or zlib.crc32(journal) != trailer.checksum:
        return []
    heads: list[tuple[int, int]] = []
    for offset, length in EXTENT.iter_unpack(journal[: len(journal) // EXTENT.size * EXTENT.size]):
        if not length:
            break
        heads.append((offset, length))
    position = (len(heads) + 1) * EXTENT.size
    extents = []
    for offset, length in heads:
        extents.append((offset, journal[position : position + length]))
        position += length
    return extents
