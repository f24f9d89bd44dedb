"""Drivers of the state machines: MPI and artificial delays."""
