"""Are the collections that hold a file's texts lists that end?

HDF5 keeps texts of variable length in "global heaps" ("HDF5 File Format Specification", III.E). To
read one it walks through all of its heap, and never comes to the end if one of them has no size.
"""

import struct

import numpy as np
from h5py import h5d

from asyndbt_mpi.log.storage.journal import JournaledFile

MOST_TEXT_BYTES = 1 << 16
REFERENCE = struct.Struct("<IQI")
"""Of a text: its length, the address of its collection, its number there."""
REFERENCES = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
PREFIX = struct.Struct("<4sB3xQ")
OBJECT = struct.Struct("<HHIQ")
"""Number, references, (reserved), size; what is not used has the number 0, and its size is all."""
UNDEFINED = 2**64 - 1


class Heaps:
    """Collections of the file that is read from ``source``; each is looked at once."""

    def __init__(self, source: JournaledFile) -> None:
        self.source = source
        self._seen = {0, UNDEFINED}  # of no text

    def check(self, address: int) -> None:
        """Look at the collection at ``address``.

        Raises
        ------
        ValueError
            It is none, or HDF5 would not come to its end.
        """
        if address in self._seen:
            return
        self._seen.add(address)
        signature, version, size = PREFIX.unpack(self._read(address, PREFIX.size))
        if signature != b"GCOL" or version != 1 or size < PREFIX.size:
            raise ValueError("has a misplaced text")
        content = self._read(address, size)
        place = PREFIX.size
        while place + OBJECT.size <= size:
            number, _, _, length = OBJECT.unpack_from(content, place)
            taken = OBJECT.size + -(-length // 8) * 8 if number else length
            if taken < OBJECT.size or place + taken > size:
                raise ValueError("has texts in a damaged collection")
            place += taken

    def check_texts(self, found: h5d.DatasetID, rows: int) -> None:
        """Look at the first ``rows`` texts of a dataset of one axis, stored in plain chunks.

        HDF5 sets aside what a reference says before it looks at the text.

        Raises
        ------
        ValueError
            One of them is too long or not where it should be, or together they are longer than
            the file.
        """
        chunks: list[h5d.StoreInfo] = []
        found.chunk_iter(chunks.append)
        (length,) = found.get_create_plist().get_chunk()
        total = 0
        for chunk in chunks:
            if chunk.size != length * REFERENCE.size:
                raise ValueError("has a chunk that differs from its declared size")
            self.source.seek(chunk.byte_offset)
            references = np.frombuffer(self.source.read(chunk.size), REFERENCES)
            references = references[: max(0, rows - chunk.chunk_offset[0])]
            lengths = references["length"]
            if (longest := int(lengths.max(initial=0))) > MOST_TEXT_BYTES:
                raise ValueError(f"has a text of {longest:,} bytes, more than {MOST_TEXT_BYTES:,}")
            total += int(lengths.sum(dtype=np.int64))
            for heap in sorted(set(references["heap"].tolist())):
                self.check(heap)
        if total > self.source.size:
            raise ValueError("has more text than the file has bytes")

    def _read(self, start: int, length: int) -> bytes:
        if start + length > self.source.size:
            raise ValueError("has a text beyond the end of the file")
        self.source.seek(start)
        return self.source.read(length)
