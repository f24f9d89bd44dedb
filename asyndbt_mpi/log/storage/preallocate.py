"""Room on the disk, set aside before anything is written.

HDF5 itself leaves a damaged file, and can crash the process, when a write fails for want of room.
"""

import errno
import os

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reserve(handle: int, start: int, size: int) -> bool:
    """Have the file system set aside ``size`` bytes from ``start`` on; False if it cannot.

    Raises
    ------
    OSError
        There is no room.
    """
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(handle, start, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        return False  # the file system cannot reserve: then writing will tell
    return True
