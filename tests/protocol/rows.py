"""A server and its workers by hand, where a language model answers on rows that rank 0 knows."""

from collections import deque

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import ToWorker
from asyndbt_mpi.protocol.records import Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.task.partition import held, most_rows
from tests.conftest import Opinionated
from tests.protocol.hand import Hand
from tests.protocol.invariants import Account


class OnRows(Hand):
    """As rank 0 of `asyndbt run` has it: it knows the hellos, the rows and the labels."""

    def __init__(self, config: Config, workers: int) -> None:
        everyone = range(1, workers + 1)
        self.materials = materials = prepare(config, workers)
        self.workers, box = workers_with_black_box(config, materials, everyone, Opinionated())
        self.box = box  # type: ignore[assignment]
        self.codec = Codec(
            materials.shapes,
            free_losses=False,
            rows=most_rows(materials.data),
            pools=config.algorithm.pools,
            private=config.log.private,
        )
        hellos = {v: self.workers.hello(v, "") for v in everyone}
        known = held(materials.data)
        self.server = Server(config, materials.shapes, workers, expected=hellos, held=known)
        self.account = Account(self.server)
        self.inbox: dict[int, deque[ToWorker]] = {v: deque() for v in everyone}
        self.records: list[Record] = []
        self.time = 0.0
