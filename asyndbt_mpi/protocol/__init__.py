"""Server and worker as sans-I/O state machines, and the messages and records they exchange."""
