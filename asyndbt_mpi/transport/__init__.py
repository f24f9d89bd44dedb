"""Drivers of the state machines: MPI, a virtual clock, and replay."""
