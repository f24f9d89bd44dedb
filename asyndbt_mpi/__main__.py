"""`python -m asyndbt_mpi` is the same as `asyndbt`."""

from asyndbt_mpi.cli import main

main()
