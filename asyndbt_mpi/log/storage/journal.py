"""The file beneath HDF5: what changes in it reaches the disk as a whole or not at all.

HDF5 changes a file in place and at many points: an index of chunks that is split, a compressed
chunk that moves, a text that is replaced. A kill amid that leaves a file that cannot be read, or
that reads wrong. So HDF5 writes here into memory, and `JournaledFile.commit` brings it to the disk:

- pages beyond all that was ever in place go where they belong: nothing refers to them yet;
- the others go into a block of the journal, at the file's end, with checksums of the former;
- a slot in the file's last page says which block is the newest. Each block names the one before.

Whoever opens the file finds the pages of the blocks in their places. `JournaledFile.settle` puts
them there, and the journal begins anew. A power cut may lose any of the writes since the last
fsync, and keep others. So pages are put in place only once the blocks are on the disk, and blocks
are written over only once the pages are. A slot whose blocks, or whose pages beyond, are not what
their checksums say counts as not there: then the older one does or, without any, what is in place.

There are two slots, of which the one that is not in use is written. A file that was closed has
none, and ends where HDF5 says.
"""

import contextlib
import errno
import os
import stat
import weakref
import zlib
from collections.abc import Mapping

from asyndbt_mpi.log.storage.blocks import (
    PAGE,
    SLOTS,
    Place,
    Slot,
    extents,
    pack,
    pages_of,
    read_journal,
    read_slots,
    whole_pages,
)
from asyndbt_mpi.log.storage.preallocate import reserve

BLOCK = 512
"""Of the operating system's count of a file's blocks."""
AT_ONCE = 64
"""Pages that are joined to be written: they stay in the processor's cache."""
SPARE_BYTES = 1 << 20
"""Kept free for the commit with which a file is closed."""
MOST_ROOM = 1 << 26
"""Made at once, so that the journal need not be settled before it is due for want of room."""
NOT_REGULAR = "is no regular file"
HDF5_ERRORS = (OSError, RuntimeError, SystemError)
"""What h5py raises; the last where a method of `JournaledFile` failed: see `cause_of`."""


class JournaledFile:
    """The file at ``path`` for h5py, which takes an object with these methods for a file.

    To be read, unless it is ``writable``; then nobody else may write it. It is as it was when it
    was opened for as long as `changed` says no.

    Attributes
    ----------
    synchronises : whether `settle` and `cut` wait for the disk
    error : what made HDF5's reads or writes fail, of which HDF5 does not hear: it would not let go
        of the file any more, and end the process with a segmentation fault; without its traceback,
        whose frames would hold on to HDF5's buffers until it is gone
    close : let go of the file; to do so again does nothing

    Raises
    ------
    OSError
        It is not there, is no regular file, or cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], writable: bool = False, synchronises: bool = True
    ) -> None:
        self.synchronises = synchronises
        self._handle = open_regular(path, os.O_RDWR if writable else os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._handle)
        self.close.atexit = False  # HDF5 lets go of its files even later
        self._position = 0
        self._room = SPARE_BYTES // 2
        self.refresh()

    def refresh(self) -> None:
        """Take the file as it is on the disk by now, whatever has become of its name."""
        self.error: BaseException | None = None
        self._pages: dict[int, memoryview] = {}  # not committed; that written last comes last
        self._seen = read_slots(self._handle)
        found = read_journal(self._handle, self._seen)
        size = os.fstat(self._handle).st_size
        slots = [slot for slot in self._seen if slot is not None]
        self._tail = size - PAGE if slots else 0  # where the slots are
        self._serial = max((slot.serial for slot in slots), default=0)
        self._base = found.slot.base if found else self._serial + 1
        self._newest = found.slot.newest if found else Place()
        self._current = self._seen.index(found.slot) if found else 0
        self._journal = found.pages if found else {}  # committed, but not in place
        self._floor = found.floor if found else self._tail  # where the newest block begins
        self._end = found.slot.end if found else size
        # What lies before that may be in use, in place or by the journal.
        self._taken = max(whole_pages(self._end), *(PAGE * (page + 1) for page in self._journal), 0)
        self._settled_end = self._taken
        self._committed_end = self._end

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
        return read_slots(self._handle) != self._seen

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
        if not self._pages and not self._journal:
            return on_disk
        found = bytearray(on_disk)
        for page in pages_of(start, end):
            content = self._pages.get(page) or self._journal.get(page)
            if content is not None:
                low, high = max(start, page * PAGE), min(end, (page + 1) * PAGE)
                found[low - start : high - start] = content[low - page * PAGE : high - page * PAGE]
        return bytes(found)

    def _write(self, start: int, view: memoryview) -> None:
        pages = self._pages
        for page in pages_of(start, start + len(view)):
            low = page * PAGE - start
            part = view[low : low + PAGE] if low >= 0 else view[: low + PAGE]
            if len(part) < PAGE:
                part = self._with(page, max(-low, 0), part)
            if page in pages:
                del pages[page]  # so that it comes last
            pages[page] = part

    # ------------------------------------------------------------ what the writer asks for

    def commit(self, spare: int = SPARE_BYTES) -> None:
        """Bring to the disk what HDF5 has written, and leave ``spare`` bytes of room behind it.

        Raises
        ------
        OSError
            HDF5 could not read the file, there is no room, or it cannot be written; the file is
            that of the last commit or of this one.
        """
        if self.error is not None:
            raise self.error
        end = whole_pages(self._end)
        if not self._pages and self._end == self._committed_end and self._tail:
            return
        known, beyond = self._parted(end)
        block = pack(self._newest, known, beyond)
        if self._lacks(end, block, spare):
            self.settle()
            known, beyond = self._parted(end)
            block = pack(self._newest, known, beyond)
            if self._lacks(end, block, spare):
                self._grow(max(end, self._taken) + len(block), spare)
        self._put_pages(beyond)
        self._floor -= len(block)
        self._put(block, self._floor)
        self._newest = Place(self._floor, len(block), zlib.crc32(block))
        self._put_slot()
        for page, content in known.items():
            self._journal.pop(page, None)
            self._journal[page] = content
        self._pages = {}
        self._committed_end = self._end
        self._taken = max(self._taken, end)

    def settle(self) -> None:
        """Bring the journal's pages to their places; then all that was committed is on the disk.

        Pages get there in the order in which they were written last: who reads without heeding the
        journal does not find a number of rows before the rows.
        """
        if not self._newest.length:
            return
        # The older slot would not know what is in place from now on.
        self._write_slot(1 - self._current, self._slot())
        self._synchronise()
        self._put_pages(self._journal)
        self._synchronise()
        used = self._tail - self._floor + self._taken - self._settled_end
        self._room = max(self._room, min(2 * used, MOST_ROOM))
        self._journal = {}
        self._newest = Place()
        self._floor = self._tail
        self._taken = self._settled_end = whole_pages(self._committed_end)
        self._base = self._serial + 1
        self._put_slot(self._committed_end)

    def recover(self) -> None:
        """After a commit that failed: forget it or, where it is whole, finish it."""
        self.refresh()
        self.settle()

    def cut(self) -> None:
        """Cut off what lies behind HDF5's end: the room, the journal and the slots."""
        self.settle()
        os.ftruncate(self._handle, self._end)
        self._synchronise()
        self.refresh()

    # ------------------------------------------------------------ within

    def _parted(self, end: int) -> tuple[dict[int, memoryview], dict[int, memoryview]]:
        """Pages before ``end`` that must not change in place, and those that nothing refers to."""
        known: dict[int, memoryview] = {}
        beyond: dict[int, memoryview] = {}
        taken, last = self._taken // PAGE, end // PAGE
        for page, content in self._pages.items():
            if page < last:
                (known if page < taken else beyond)[page] = content
        return known, beyond

    def _lacks(self, end: int, block: bytes, spare: int) -> bool:
        """Whether there is no room for what is before ``end``, the ``block`` and ``spare``."""
        return self._floor - len(block) < max(end, self._taken) + spare

    def _grow(self, needed: int, spare: int) -> None:
        """Make the file larger; nothing is in the journal."""
        size = os.fstat(self._handle).st_size
        room = self._room if spare else 0  # not at every commit
        larger = whole_pages(max(needed + spare + room, size)) + PAGE
        try:
            if not reserve(self._handle, size, larger - size):
                os.ftruncate(self._handle, larger)
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        self._tail = self._floor = larger - PAGE
        self._put_slot(self._committed_end)

    def _slot(self, end: int | None = None) -> Slot:
        return Slot(self._serial, self._base, self._end if end is None else end, self._newest)

    def _put_slot(self, end: int | None = None) -> None:
        """Write the slot that is not in use, which from then on is."""
        self._serial += 1
        self._current = 1 - self._current
        self._write_slot(self._current, self._slot(end))

    def _write_slot(self, number: int, slot: Slot) -> None:
        self._put(slot.packed(), self._tail + SLOTS[number])

    def _synchronise(self) -> None:
        if self.synchronises:
            os.fsync(self._handle)

    def _with(self, page: int, start: int, part: memoryview) -> memoryview:
        """The page as it is, but for ``part`` of it from ``start`` on."""
        known = self._pages.get(page) or self._journal.get(page)
        content = bytearray(os.pread(self._handle, PAGE, page * PAGE) if known is None else known)
        content.extend(bytes(PAGE - len(content)))
        content[start : start + len(part)] = part
        return memoryview(content)

    def _put_pages(self, pages: Mapping[int, memoryview]) -> None:
        """Write the ``pages`` where they belong, in their order."""
        for offset, contents in extents(pages):
            for first in range(0, len(contents), AT_ONCE):
                joined = b"".join(contents[first : first + AT_ONCE])
                self._put(joined, offset + first * PAGE)

    def _put(self, content: bytes, offset: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._handle, view, offset)
            view, offset = view[written:], offset + written


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
    """Make a file whose writer was killed one of HDF5 alone.

    Then programs that do not know of journals find it whole, too. A file that may not be written
    stays as it is.
    """
    if os.access(path, os.W_OK):
        with contextlib.closing(JournaledFile(path, writable=True)) as file:
            file.cut()
