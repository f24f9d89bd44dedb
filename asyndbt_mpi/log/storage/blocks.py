"""How blocks and slots of the journal stand in the file: packed, found again, and checked.

`JournaledFile` says what they are for. Nothing here writes.
"""

import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

PAGE = 4096
MARK = b"asyndbtJ"
SECTOR = 512
SLOTS = (0, SECTOR)
"""Where the slots are in the last page; disks write sectors at once."""
SLOT = struct.Struct("<8sQQQQQII")
HEAD = struct.Struct("<QQIIII")
EXTENT = struct.Struct("<QQ")
CHECKSUM = struct.Struct("<I")


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


class Block(NamedTuple):
    """What was committed at once: ``pages``, and checksums of those ``beyond``; see `_unpack`."""

    before: Place
    pages: dict[int, memoryview]
    beyond: dict[int, int]


def pages_of(start: int, end: int) -> range:
    """Numbers of the pages on which the bytes from ``start`` to ``end`` lie."""
    return range(start // PAGE, -(-end // PAGE))


def whole_pages(end: int) -> int:
    """Where the page ends in which ``end`` lies."""
    return -(-end // PAGE) * PAGE


def extents(pages: Mapping[int, memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """The pages in their order, neighbours together: offset and pages of each extent."""
    run: list[memoryview] = []
    start = end = 0
    for page, content in pages.items():
        if page != end:
            if run:
                yield start * PAGE, run
            run, start = [], page
        run.append(content)
        end = page + 1
    if run:
        yield start * PAGE, run


def pack(before: Place, known: Mapping[int, memoryview], beyond: Mapping[int, memoryview]) -> bytes:
    """A block of pages that are ``known`` and of those ``beyond``: see `_unpack`."""
    extents_known, extents_beyond = list(extents(known)), list(extents(beyond))
    parts = [HEAD.pack(*before, len(extents_known), len(extents_beyond), 0)]
    for offset, contents in (*extents_known, *extents_beyond):
        parts.append(EXTENT.pack(offset, len(contents) * PAGE))
    parts += map(CHECKSUM.pack, map(zlib.crc32, beyond.values()))
    return b"".join([*parts, *known.values()])


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


def read_slots(handle: int) -> tuple[Slot | None, ...]:
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


def read_journal(handle: int, slots: Sequence[Slot | None]) -> Journal | None:
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
