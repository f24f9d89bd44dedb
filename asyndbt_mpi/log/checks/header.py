"""How long an object's attributes of text are, read from the bytes of its HDF5 header.

HDF5 sets aside what a reference to a text says, up to 4 GB, before it looks at the text, and has
no way to ask beforehand. Logs are in HDF5's oldest format, whose headers (version 1, see "HDF5
File Format Specification", IV.A) are lists of messages.
"""

import struct
from collections.abc import Iterator

from asyndbt_mpi.log.checks.heaps import REFERENCE
from asyndbt_mpi.log.storage.journal import JournaledFile

PREFIX = struct.Struct("<BxH4xI4x")
"""Version, number of messages, length of the first block."""
MESSAGE = struct.Struct("<HH4x")
"""Kind and length; what it says follows."""
BLOCK = struct.Struct("<QQ")
CONTINUATION, ATTRIBUTE = 0x10, 0x0C
SIZES = struct.Struct("<BxHHH")
"""Of an attribute: version, and lengths of name, type and space, each padded to 8 bytes."""
VARIABLE_LENGTH = 9
MOST_BYTES = 1 << 20


def texts(source: JournaledFile, address: int) -> dict[str, tuple[int, int]]:
    """Bytes of each attribute that is one text of variable length, and the address of its heap.

    Raises
    ------
    ValueError
        The header is not of version 1.
    """
    found = {}
    for message in _messages(source, address):
        version, name, of_type, space = SIZES.unpack_from(message)
        if version != 1:
            raise ValueError("an attribute has an unexpected version of HDF5's format")
        place = SIZES.size
        called = message[place : place + name].rstrip(b"\0").decode(errors="backslashreplace")
        place += _padded(name)
        kind = message[place] & 0x0F
        place += _padded(of_type) + _padded(space)
        if kind == VARIABLE_LENGTH:
            length, heap, _ = REFERENCE.unpack_from(message, place)
            found[called] = length, heap
    return found


def _messages(source: JournaledFile, address: int) -> Iterator[bytes]:
    """What the messages about attributes say."""
    version, _, length = PREFIX.unpack(_bytes(source, address, PREFIX.size))
    if version != 1:
        raise ValueError("has a different version of HDF5's format from that of logs")
    blocks, seen = [(address + PREFIX.size, length)], 0
    while blocks:
        start, length = blocks.pop()
        if (seen := seen + length) > MOST_BYTES:
            raise ValueError("has a longer header than any log")
        block = _bytes(source, start, length)
        place = 0
        while place + MESSAGE.size <= length:
            kind, size = MESSAGE.unpack_from(block, place)
            place += MESSAGE.size
            if kind == CONTINUATION:
                blocks.append(BLOCK.unpack_from(block, place))
            elif kind == ATTRIBUTE:
                yield block[place : place + size]
            place += size


def _bytes(source: JournaledFile, start: int, length: int) -> bytes:
    if not 0 < length <= MOST_BYTES or start + length > source.size:
        raise ValueError("has a damaged header")
    source.seek(start)
    return source.read(length)


def _padded(length: int) -> int:
    return -(-length // 8) * 8
