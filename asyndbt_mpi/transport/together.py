"""What all ranks find out together at the start, without ever waiting forever for one."""

import math
import os
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.protocol.wire import Buffer
from asyndbt_mpi.transport.launcher import node_name
from asyndbt_mpi.transport.mpi import (
    ABANDONED,
    MPI,
    SERVER,
    StartError,
    backoff_for,
    complete,
    deaths_told,
    names,
    survives_deaths,
)

PRESENT = 1
"""Tag of the messages by which ranks report their presence."""
LATER_SECONDS = 0.5
LONGEST_TEXT = 2**26
"""Bytes of text that a rank may contribute when all are asked."""


class Together:
    """Calls that all ranks of ``comm`` make together.

    Each raises a `StartError` on a rank that has waited ``seconds`` for the others.
    """

    def __init__(self, comm: MPI.Intracomm, seconds: float = math.inf) -> None:
        self._comm = comm
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        # Rank 0 gives up first, so that the line is not printed by all.
        self._seconds = seconds + LATER_SECONDS * (self._rank != SERVER)

    def wait_for_all(self) -> None:
        """Return once every rank has called this; early ranks leave their cores to the others.

        The others wait for rank 0 forever, as it may have a long run to read.

        Raises
        ------
        StartError
            At rank 0, with the ranks that are missing.
        """
        here = np.zeros(1, np.uint8)
        if self._rank == SERVER:
            with deaths_told(self._comm):
                self._call_the_roll(here)
        else:
            ABANDONED.append((self._comm.Isend((here, MPI.BYTE), SERVER, PRESENT), here))
        seconds = self._seconds if self._rank == SERVER else math.inf
        complete(self._comm, self._comm.Ibarrier(), seconds)

    def _call_the_roll(self, here: Buffer) -> None:
        """Wait until every other rank has reported its presence."""
        missing, status = set(range(1, self._size)), MPI.Status()
        for _ in backoff_for(self._seconds):
            while missing and self._comm.Iprobe(MPI.ANY_SOURCE, PRESENT, status):
                rank, length = status.Get_source(), status.Get_elements(MPI.BYTE)
                if length != len(here):
                    raise StartError(
                        f"rank {rank} sent {length} bytes to say that it is there, not 1"
                    )
                self._comm.Recv((here, MPI.BYTE), rank, PRESENT)
                missing.discard(rank)
            if not missing:
                return
        raise StartError(
            f"{names(missing)} took no part in the start for {self._seconds:g} seconds"
        )

    def agree(self, ok: bool) -> tuple[bool, bool]:
        """Whether every rank is ok, and whether this rank is the one to report a problem."""
        first_bad = np.array([self._size if ok else self._rank])
        lowest = np.empty_like(first_bad)
        request = self._comm.Iallreduce(first_bad, lowest, MPI.MIN)
        self._complete(request, first_bad, lowest)
        return bool(lowest[0] == self._size), bool(lowest[0] == self._rank)

    def from_server(self, value: int) -> int:
        """Rank 0's ``value``, on every rank."""
        shared = np.array([value])
        self._complete(self._comm.Ibcast(shared, SERVER), shared)
        return int(shared[0])

    def gather_texts(self, text: str) -> list[str]:
        """Every rank's ``text``, in order of rank, at rank 0; nothing at the others."""
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = self._everyones(len(own))
        wrong = np.flatnonzero((lengths < 0) | (lengths > LONGEST_TEXT))
        if len(wrong):
            raise StartError(f"rank {wrong[0]} wants to send {lengths[wrong[0]]} bytes")
        ends = lengths.cumsum()
        everything = np.empty(ends[-1] if self._rank == SERVER else 0, np.uint8)
        request = self._comm.Igatherv(own, (everything, (lengths, ends - lengths)), SERVER)
        self._complete(request, own, everything, lengths)
        if self._rank != SERVER:
            return []
        parts = np.split(everything, ends[:-1])
        return [part.tobytes().decode(errors="replace") for part in parts]

    def first_text(self, text: str) -> str:
        """The ``text`` of the first rank that has one, on every rank; "" if none has."""
        encoded = text.encode(errors="backslashreplace")[:LONGEST_TEXT]
        lengths = self._everyones(len(encoded))
        speaker = int((lengths > 0).argmax())
        if not 0 <= lengths[speaker] <= LONGEST_TEXT:
            raise StartError(f"rank {speaker} wants to send {lengths[speaker]} bytes")
        shared = np.zeros(int(lengths[speaker]), np.uint8)
        if speaker == self._rank:
            shared[:] = np.frombuffer(encoded, np.uint8)
        self._complete(self._comm.Ibcast(shared, speaker), shared)
        return shared.tobytes().decode(errors="replace")

    def node_share(self) -> tuple[int, int]:
        """This worker's number among the workers on its node (from 0), and its share of cores.

        The share is the cores that the process may run on, divided by the node's workers that may
        run on the same ones; at least 1. Rank 0 hardly computes and is not counted.
        """
        mine = sorted(os.sched_getaffinity(0))
        nodes = self._everyones(_digest(node_name()))
        cores = self._everyones(_digest(f"{node_name()} {mine}"))
        before = int((nodes[SERVER + 1 : self._rank] == nodes[self._rank]).sum())
        sharing = int((cores[SERVER + 1 :] == cores[self._rank]).sum())
        return before, max(1, len(mine) // max(1, sharing))

    def workers_of_node(self) -> MPI.Comm:
        """The workers of this rank's node among themselves; rank 0 gets the null communicator."""
        nodes = self._everyones(_digest(node_name()))
        if self._rank == SERVER:
            return MPI.COMM_NULL
        neighbours = SERVER + 1 + np.flatnonzero(nodes[SERVER + 1 :] == nodes[self._rank])
        # Only these wait for one that has stopped; the server gives them up in the end.
        return self._comm.Create_group(self._comm.Get_group().Incl(neighbours.tolist()))

    def _complete(self, request: MPI.Request, *buffers: object) -> None:
        complete(self._comm, request, self._seconds, *buffers)

    def _everyones(self, value: int) -> NDArray[np.int64]:
        """Every rank's ``value``, in order of rank."""
        own, everyones = np.array([value]), np.empty(self._size, np.int64)
        self._complete(self._comm.Iallgather(own, everyones), own, everyones)
        return everyones


def _digest(token: str) -> int:
    return int(np.frombuffer(blake2b(token.encode(), digest_size=8).digest(), np.int64)[0])


def count_equal(
    comm: MPI.Comm, token: str, until: Callable[[], bool] = lambda: False, seconds: float = math.inf
) -> int:
    """How many ranks of ``comm``, this one included, gave the same ``token``; 0 for none.

    Ranks may come late; the others sleep meanwhile. It is 1 if the number cannot be found out: a
    rank died or did not come within ``seconds``, or ``until`` became true first.
    """
    own = np.array([_digest(token)])
    everyone = np.empty(comm.Get_size(), np.int64)
    try:
        request = comm.Iallgather(own, everyone)
        for _ in backoff_for(seconds):
            if request.Test():
                return int((everyone == own[0]).sum()) if token else 0
            if until():
                break
    except MPI.Exception:
        if not survives_deaths():
            raise
        return 1  # the server will notice
    ABANDONED.append((request, own, everyone))
    return 1
