"""The HDF5 log: schema, writer, reader and verification."""

import os

# A log is made exclusively and read beside its writer, so it is opened without locks, which some
# file systems lack and a viewer may hold. HDF5 lets this variable override what the program asks
# for, and reads it once, when it is loaded.
_LOCKING = "HDF5_USE_FILE_LOCKING"
_asked = os.environ.pop(_LOCKING, None)
import h5py  # noqa: E402, F401

if _asked is not None:
    os.environ[_LOCKING] = _asked
