"""Which bytes of a log's file are live: an account of HDF5's own structures, and of the rows.

After the HDF5 File Format Specification, version 3.0: superblock 0, object headers 1, groups and
chunks in B-trees of version 1, which is what h5py makes if it is asked for nothing else. What is
not in use of B-trees, heaps and chunks is not live, nor are freed messages and the padding of
names; reserved bytes within what is in use are.
"""

import itertools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

SUPERBLOCK_BYTES, CONTINUATION, SYMBOL_TABLE, LAYOUT, ATTRIBUTE = 96, 0x10, 0x11, 0x08, 0x0C
UNDEFINED, VARIABLE_LENGTH = 2**64 - 1, 9


class Extent(NamedTuple):
    """Live bytes from ``start`` to ``stop``, and what they are."""

    start: int
    stop: int
    place: str


def extents(path: Path) -> list[Extent]:
    """All live bytes of a log that was closed, in order.

    Raises
    ------
    ValueError
        Two structures overlap: the file is not what this reader takes it for.
    """
    content = path.read_bytes()
    found = [Extent(0, SUPERBLOCK_BYTES, "superblock")]
    with h5py.File(path, "r") as file:
        objects = ["/"]
        file.visit(objects.append)
        for name in objects:
            found += _object(content, h5py.h5o.get_info(file[name].id).addr)
            if isinstance(file[name], h5py.Dataset):
                found += _rows(file[name])
    chunks = [(each.start, each.stop) for each in found if each.place.startswith("rows")]
    found += _texts(content, chunks)
    found = sorted(set(found))
    for one, other in itertools.pairwise(found):
        if one.stop > other.start:
            raise ValueError(f"{one} and {other} overlap")
    return found


def _rows(dataset: h5py.Dataset) -> Iterator[Extent]:
    """The parts of the chunks that hold rows; of a compressed one all."""
    row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    compressed = dataset.compression is not None
    place = f"rows of {dataset.name.rpartition('/')[0] or dataset.name}"
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        rows = min(dataset.chunks[0], len(dataset) - chunk.chunk_offset[0])
        size = chunk.size if compressed else rows * row_bytes
        yield Extent(chunk.byte_offset, chunk.byte_offset + size, place)


def _object(content: bytes, address: int) -> Iterator[Extent]:
    """An object header of version 1, and the indices that it refers to."""
    (size,) = struct.unpack_from("<I", content, address + 8)
    yield Extent(address, address + 16, "object headers")
    blocks = [(address + 16, size)]
    while blocks:
        start, size = blocks.pop(0)
        position = start
        while position + 8 <= start + size:
            kind, length = struct.unpack_from("<HH", content, position)
            data = position + 8
            if kind == ATTRIBUTE:
                yield from _attribute(content, position)
            elif kind:
                yield Extent(position, data + length, "object headers")
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", content, data))
            elif kind == SYMBOL_TABLE:
                tree, heap = struct.unpack_from("<QQ", content, data)
                yield from _group(content, tree, heap)
            elif kind == LAYOUT:
                version, kind_of, dimensions = struct.unpack_from("<BBB", content, data)
                if (version, kind_of) != (3, 2):
                    raise ValueError(f"a layout {version}, {kind_of} at {data}")
                (tree,) = struct.unpack_from("<Q", content, data + 3)
                key = 8 + 8 * dimensions
                yield from (extent for extent, _ in _tree(content, tree, key, "chunk indices"))
            position = data + length


def _attribute(content: bytes, message: int) -> Iterator[Extent]:
    """An attribute: what says what it is, without the padding, and its value.

    That of a text is where it is among the `_texts`, and how long.
    """
    version, name, dtype, space = struct.unpack_from("<BxHHH", content, message + 8)
    if version != 1:
        raise ValueError(f"an attribute of version {version} at {message}")
    yield Extent(message, message + 16, "attributes")
    starts = [message + 16]
    for length in (name, dtype, space):
        yield Extent(starts[-1], starts[-1] + length, "attributes")
        starts.append(starts[-1] + -(-length // 8) * 8)
    _, of_type, of_space, value = starts
    (size,) = struct.unpack_from("<I", content, of_type + 4)
    elements = math.prod(struct.unpack_from(f"<{content[of_space + 1]}Q", content, of_space + 8))
    place = "texts" if content[of_type] & 0x0F == VARIABLE_LENGTH else "attribute values"
    yield Extent(value, value + size * elements, place)


def _tree(content: bytes, address: int, key: int, place: str) -> Iterator[tuple[Extent, list[int]]]:
    """The nodes of a B-tree of version 1, each leaf with its children."""
    if address == UNDEFINED:
        return
    mark, _, level, entries = struct.unpack_from("<4sBBH", content, address)
    if mark != b"TREE":
        raise ValueError(f"no B-tree at {address}")
    end = address + 24 + entries * (key + 8) + key
    starts = range(address + 24 + key, end, key + 8)
    children = [struct.unpack_from("<Q", content, start)[0] for start in starts]
    yield Extent(address, end, place), [] if level else children
    for child in children if level else ():
        yield from _tree(content, child, key, place)


def _group(content: bytes, tree: int, heap: int) -> Iterator[Extent]:
    """The index of a group: B-tree, symbol nodes, and the heap of the names."""
    place = "names"
    names = {0}
    for extent, nodes in _tree(content, tree, 8, place):
        yield extent
        for node in nodes:
            mark, _, _, symbols = struct.unpack_from("<4sBBH", content, node)
            if mark != b"SNOD":
                raise ValueError(f"no symbol node at {node}")
            yield Extent(node, node + 8 + 40 * symbols, place)
            starts = range(node + 8, node + 8 + 40 * symbols, 40)
            names |= {struct.unpack_from("<Q", content, start)[0] for start in starts}
    mark, _, _, free, data = struct.unpack_from("<4sIQQQ", content, heap)
    if mark != b"HEAP":
        raise ValueError(f"no heap at {heap}")
    yield Extent(heap, heap + 32, place)
    for name in names:
        start = data + name
        yield Extent(start, content.index(b"\0", start) + 1, place)
    while free not in (1, UNDEFINED):  # 1: the end of the list
        yield Extent(data + free, data + free + 16, place)
        (free,) = struct.unpack_from("<Q", content, data + free)


def _texts(content: bytes, chunks: list[tuple[int, int]]) -> Iterator[Extent]:
    """The global heaps, which hold the texts."""
    address = content.find(b"GCOL\x01\0\0\0")
    while address >= 0:
        if not any(start <= address < stop for start, stop in chunks):
            yield from _heap(content, address)
        address = content.find(b"GCOL\x01\0\0\0", address + 1)


def _heap(content: bytes, address: int) -> Iterator[Extent]:
    (size,) = struct.unpack_from("<Q", content, address + 8)
    yield Extent(address, address + 16, "texts")
    position = address + 16
    while position + 16 <= address + size:
        index, _, length = struct.unpack_from("<HHxxxxQ", content, position)
        if not index:  # the free rest
            yield Extent(position, position + 16, "texts")
            break
        yield Extent(position, position + 16 + length, "texts")
        position += 16 + -(-length // 8) * 8
