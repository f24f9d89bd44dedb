"""A rank of `asyndbt doctor` on which something is wrong that one machine cannot have otherwise.

Of three ranks, rank 1 fails to look at its cores; rank 2 is in another folder, as on a node with
other disks.
"""

import os
import sys

from asyndbt_mpi.cli import main
from asyndbt_mpi.doctor import cores


def fail() -> None:
    raise OSError("no cores to be seen")


if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    cores.look = fail
if os.environ["OMPI_COMM_WORLD_RANK"] == "2":
    os.chdir(os.environ["OTHER_FOLDER"])
sys.argv[0] = "asyndbt"
main()
