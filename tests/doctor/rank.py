"""A rank of `asyndbt doctor` on which something is wrong that one machine cannot have otherwise.

Of three ranks, rank 1 fails to look at its cores, rank 2 has a clock that is an hour fast and, as
on a node with other disks, another folder.
"""

import os
import sys
import time

from asyndbt_mpi.cli import main
from asyndbt_mpi.doctor import cores


def fail() -> None:
    raise OSError("no cores to be seen")


if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    cores.look = fail
if os.environ["OMPI_COMM_WORLD_RANK"] == "2":
    right = time.time
    time.time = lambda: right() + 3600
    os.chdir(os.environ["OTHER_FOLDER"])
sys.argv[0] = "asyndbt"
main()
