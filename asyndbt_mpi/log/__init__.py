"""The HDF5 log: schema, writer, reader and verification."""
