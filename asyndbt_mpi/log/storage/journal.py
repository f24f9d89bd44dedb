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
import itertools
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from asyndbt_mpi.log.storage.preallocate import reserve

PAGE = 4096
BLOCK = 512
"""Of the operating system's count of a file's blocks."""
SPARE_BYTES = 1 << 20
"""Kept free for the commit with which a file is closed."""
MARK = b"asyndbtJ"
SECTOR = 512
SLOTS = (0, SECTOR)
"""Where the slots are in the last page; disks write sectors at once."""
SLOT = struct.Struct("<8sQQQQQII")
HEAD = struct.Struct("<QQIIII")
EXTENT = struct.Struct("<QQ")
CHECKSUM = struct.Struct("<I")
MOST_ROOM = 1 << 26
"""Made at once, so that the journal need not be settled before it is due for want of room."""
NOT_REGULAR = "is no regular file"
HDF5_ERRORS = (OSError, RuntimeError, SystemError)
"""What h5py raises; the last where a method of `JournaledFile` failed: see `cause_of`."""


class Place(NamedTuple):
    """Of a block of the journal; no length: there is none."""

    offset: int = 0
    length: int = 0
    checksum: int = 0


class Slot(NamedTuple):
    """What the last page says.

    ``serial`` is one more for every slot that is written; ``base`` that with which the journal
    began: what was in place then is in place still. ``end`` is where HDF5's part of the file ends.
    """

    serial: int
    base: int
    end: int
    newest: Place

    def packed(self) -> bytes:
        """As it stands in the file, closed by its own checksum."""
        body = SLOT.pack(MARK, self.serial, self.base, self.end, *self.newest, 0)[:-4]
        return body + CHECKSUM.pack(zlib.crc32(body))


class Journal(NamedTuple):
    """What the blocks up to a slot's say: pages by their numbers, that written last comes last."""

    slot: Slot
    pages: dict[int, memoryview]
    floor: int


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
        self._seen = _read_slots(self._handle)
        found = _read_journal(self._handle, self._seen)
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
        self._taken = max(
            _whole_pages(self._end), *(PAGE * (page + 1) for page in self._journal), 0
        )
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
        return _read_slots(self._handle) != self._seen

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
        for page in _pages_of(start, end):
            content = self._pages.get(page) or self._journal.get(page)
            if content is not None:
                low, high = max(start, page * PAGE), min(end, (page + 1) * PAGE)
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

        Raises
        ------
        OSError
            HDF5 could not read the file, there is no room, or it cannot be written; the file is
            that of the last commit or of this one.
        """
        if self.error is not None:
            raise self.error
        end = _whole_pages(self._end)
        if not self._pages and self._end == self._committed_end and self._tail:
            return
        block = self._block(end)
        if self._lacks(end, block, spare):
            self.settle()
            block = self._block(end)
            if self._lacks(end, block, spare):
                self._grow(max(end, self._taken) + len(block), spare)
        for offset, extent in _extents(self._beyond(end)):
            self._put(extent, offset)
        self._floor -= len(block)
        self._put(block, self._floor)
        self._newest = Place(self._floor, len(block), zlib.crc32(block))
        self._put_slot()
        for page, content in self._known(end).items():
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
        for offset, content in _extents(self._journal):
            self._put(content, offset)
        self._synchronise()
        used = self._tail - self._floor + self._taken - self._settled_end
        self._room = max(self._room, min(2 * used, MOST_ROOM))
        self._journal = {}
        self._newest = Place()
        self._floor = self._tail
        self._taken = self._settled_end = _whole_pages(self._committed_end)
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

    def _known(self, end: int) -> dict[int, memoryview]:
        """Pages before ``end`` that must not change in place."""
        bound = min(end, self._taken)
        return {page: content for page, content in self._pages.items() if page * PAGE < bound}

    def _beyond(self, end: int) -> dict[int, memoryview]:
        """Pages before ``end`` that nothing refers to."""
        return {
            page: content
            for page, content in self._pages.items()
            if self._taken <= page * PAGE < end
        }

    def _block(self, end: int) -> bytes:
        """A block of the journal: see `_unpack`."""
        known = list(_extents(self._known(end)))
        beyond = list(_extents(self._beyond(end)))
        parts = [HEAD.pack(*self._newest, len(known), len(beyond), 0)]
        parts += [EXTENT.pack(offset, len(content)) for offset, content in (*known, *beyond)]
        for _, content in beyond:
            pages = range(0, len(content), PAGE)
            parts += [CHECKSUM.pack(zlib.crc32(content[page : page + PAGE])) for page in pages]
        return b"".join([*parts, *(content for _, content in known)])

    def _lacks(self, end: int, block: bytes, spare: int) -> bool:
        """Whether there is no room for what is before ``end``, the ``block`` and ``spare``."""
        return self._floor - len(block) < max(end, self._taken) + spare

    def _grow(self, needed: int, spare: int) -> None:
        """Make the file larger; nothing is in the journal."""
        size = os.fstat(self._handle).st_size
        room = self._room if spare else 0  # not at every commit
        larger = _whole_pages(max(needed + spare + room, size)) + PAGE
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


def _pages_of(start: int, end: int) -> range:
    """Numbers of the pages on which the bytes from ``start`` to ``end`` lie."""
    return range(start // PAGE, -(-end // PAGE))


def _whole_pages(end: int) -> int:
    return -(-end // PAGE) * PAGE


def _extents(pages: Mapping[int, memoryview]) -> Iterator[tuple[int, bytes]]:
    """The pages in their order, neighbours joined: offset and content of each extent."""
    run: list[memoryview] = []
    start = end = 0
    for page, content in pages.items():
        if page * PAGE != end:
            if run:
                yield start, b"".join(run)
            run, start = [], page * PAGE
        run.append(content)
        end = (page + 1) * PAGE
    if run:
        yield start, b"".join(run)


def _read_slots(handle: int) -> tuple[Slot | None, ...]:
    """Those in the file's last page; None where there is none, or not a whole one."""
    size = os.fstat(handle).st_size
    if size < PAGE or size % PAGE:
        return None, None
    tail = os.pread(handle, SECTOR + SLOT.size, size - PAGE)
    return tuple(_slot_of(tail[place : place + SLOT.size]) for place in SLOTS)


def _slot_of(packed: bytes) -> Slot | None:
    if len(packed) < SLOT.size:  # the file has become shorter just now
        return None
    mark, serial, base, end, *newest, checksum = SLOT.unpack(packed)
    if mark != MARK or checksum != zlib.crc32(packed[:-4]):
        return None
    return Slot(serial, base, end, Place(*newest))


def _read_journal(handle: int, slots: Sequence[Slot | None]) -> Journal | None:
    """The newest of the ``slots`` that holds, and what its blocks say; None: only what is in place.

    A slot with an older base than another knows less than is in place.
    """
    found = [slot for slot in slots if slot is not None]
    base = max((slot.base for slot in found), default=0)
    for slot in sorted(found, reverse=True):
        if slot.base == base and (journal := _follow(handle, slot)) is not None:
            return journal
    return None


def _follow(handle: int, slot: Slot) -> Journal | None:
    """What the blocks up to ``slot`` say; None if one is not whole, or pages beyond are not."""
    tail = os.fstat(handle).st_size - PAGE
    blocks, place, floor = [], slot.newest, 0
    if slot.end > tail:
        return None
    while place.length:
        if not floor < place.offset + place.length <= tail:  # each lies behind the one after it
            return None
        block = os.pread(handle, place.length, place.offset)
        unpacked = _unpack(block) if zlib.crc32(block) == place.checksum else None
        if unpacked is None:
            return None
        blocks.append(unpacked)
        place, floor = unpacked.before, place.offset + place.length
    pages: dict[int, memoryview] = {}
    beyond: dict[int, int] = {}
    for each in reversed(blocks):
        beyond |= each.beyond
        for page, content in each.pages.items():
            pages.pop(page, None)
            pages[page] = content
    for page, checksum in beyond.items():
        if page not in pages and zlib.crc32(os.pread(handle, PAGE, page * PAGE)) != checksum:
            return None
    return Journal(slot, pages, slot.newest.offset or tail)


class Block(NamedTuple):
    """What was committed at once: ``pages``, and checksums of those ``beyond``; see `_unpack`."""

    before: Place
    pages: dict[int, memoryview]
    beyond: dict[int, int]


def _unpack(block: bytes) -> Block | None:
    """Head, extents of pages, extents of pages beyond, checksums of these, the former's content.

    None if it is none, though its checksum says so.
    """
    try:
        *place, known, beyond, _ = HEAD.unpack_from(block)
        position = HEAD.size + (known + beyond) * EXTENT.size
        extents = list(EXTENT.iter_unpack(block[HEAD.size : position]))
        counts = [size // PAGE for _, size in extents]
        content = position + sum(counts[known:]) * CHECKSUM.size
        if content + sum(counts[:known]) * PAGE != len(block):
            return None
        numbers = [
            range(offset // PAGE, offset // PAGE + count)
            for (offset, _), count in zip(extents, counts, strict=True)
        ]
        checksums = [each for (each,) in CHECKSUM.iter_unpack(block[position:content])]
        beyond_pages = itertools.chain(*numbers[known:])
        view = memoryview(block)[content:]
        return Block(
            Place(*place),
            {
                page: view[index * PAGE :][:PAGE]
                for index, page in enumerate(itertools.chain(*numbers[:known]))
            },
            dict(zip(beyond_pages, checksums, strict=True)),
        )
    except (struct.error, ValueError):
        return None
