"""`asyndbt simulate` and `asyndbt replay`, in one process."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.commands.simulate import simulate
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind, Iteration, Record
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.transport.virtual import VirtualCluster
from tests.commands.settings import SETTINGS
from tests.helpers import ASYNDBT, mpiexec, needs_mpiexec, sets, start


def simulated(folder: Path, *settings: str, workers: int = 4) -> Path:
    path = folder / "run.h5"
    request = Request("synthetic", (*SETTINGS, *settings), str(path), True, False)
    simulate(Job.of(request, workers))
    return path


@pytest.mark.parametrize("participation", ["all", "quorum"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "mirror"])
def test_a_simulated_run_replays_bit_by_bit(
    tmp_path: Path, participation: str, optimizer: str
) -> None:
    path = simulated(
        tmp_path,
        f"algorithm.lower_participation={participation}",
        f"steps.optimizer={optimizer}",
    )
    assert verify(path).violations == []
    comparison = replay(path)
    assert (comparison.iterations, comparison.difference) == (60, None)
    with Log(path) as log:
        assert log.transport == "virtual"
        assert len(log["plane/id"]) > 5


@pytest.mark.parametrize("estimator", ["additive", "loo", "bdpl", "exact"])
@pytest.mark.parametrize("workers", [1, 7, 33])
def test_workers_that_compute_together_compute_the_same_alone(
    tmp_path: Path, estimator: str, workers: int
) -> None:
    """A simulation moves many workers at once, a replay one after the other."""
    path = simulated(
        tmp_path,
        f"estimator.name={estimator}",
        f"algorithm.active_workers={1 + workers // 4}",
        "run.iterations=20",
        "prompt.fragment_length=5",
        "prompt.vocabulary_size=31",
        "prompt.pool=9",
        workers=workers,
    )
    assert replay(path).difference is None


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file["iteration/z"][31, 2, 3] = np.nextafter(file["iteration/z"][31, 2, 3], 1.0)
    comparison = replay(path)
    assert comparison.iterations == 30
    assert "iteration 30: iteration/z differs by up to" in comparison.difference


def test_another_order_of_arrivals_is_noticed(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file["event/worker"][20:40] = file["event/worker"][20:40][::-1]
    assert replay(path).difference is not None


def test_an_interrupted_log_replays_as_far_as_it_goes(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["committed"] = 40
    assert replay(path).iterations == 40


def test_left_out_iterates_are_not_compared(tmp_path: Path) -> None:
    path = simulated(tmp_path, "log.iterates=7")
    comparison = replay(path)
    assert (comparison.difference, comparison.every) == (None, 7)


def test_an_iterate_that_should_be_there_and_is_not_is_a_difference(tmp_path: Path) -> None:
    path = simulated(tmp_path)
    with h5py.File(path, "r+") as file:
        file["iteration/z"][21] = np.nan
    assert "iteration 20: iteration/z differs" in (replay(path).difference or "")


def test_a_run_is_replayed_without_the_trace_that_its_delays_came_from(tmp_path: Path) -> None:
    trace = simulated(tmp_path).rename(tmp_path / "trace.h5")
    path = simulated(tmp_path, "delay.model=trace", f"delay.trace={trace}", "delay.mean=0")
    trace.unlink()
    assert replay(path).difference is None


@pytest.fixture(scope="module", params=["all", "quorum"])
def mpi_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of 200 iterations over MPI, with planes, for either participation."""
    participation, path = request.param, tmp_path_factory.mktemp("mpi") / "mpi.h5"
    settings = [
        "run.iterations=200",
        "run.evaluate_every=50",
        "algorithm.tolerance=0",
        f"algorithm.lower_participation={participation}",
    ]
    words = ["run", "synthetic", "--output", str(path), *sets(*settings)]
    result = start(mpiexec(4, [*ASYNDBT, *words]), path.parent)
    assert result.returncode == 0, result.stderr
    return path


@needs_mpiexec
def test_an_mpi_run_replays_bit_by_bit(mpi_run: Path) -> None:
    comparison = replay(mpi_run)
    assert (comparison.iterations, comparison.difference) == (200, None)
    with Log(mpi_run) as log:
        assert log.transport == "mpi"
        assert len(log["plane/id"]) > 10


class InOrder:
    """Delays after which a worker's replies arrive when the log has them: the n-th at time n."""

    def __init__(self, log: Log, worker: int) -> None:
        mine = (log["event/worker"] == worker) & (log["event/kind"] != EventKind.HELLO)
        self.arrivals = iter((np.flatnonzero(mine) + 1.0).tolist())
        self.worker = worker
        self.cluster: VirtualCluster | None = None

    def draw(self) -> float:
        # A reply that the run did not live to see comes after all others. Whole numbers are exact.
        arrival = next(self.arrivals, 1e9)
        assert self.cluster is not None
        return arrival - max(self.cluster.now, self.cluster.free_at[self.worker])


@needs_mpiexec
def test_a_virtual_run_with_the_arrivals_of_an_mpi_run_has_its_iterates(mpi_run: Path) -> None:
    with Log(mpi_run) as log:
        everyone = range(1, log.workers + 1)
        materials = prepare(log.config, log.workers)
        server = Server(log.config, log.shapes, log.workers)
        workers, box = workers_with_black_box(log.config, materials, everyone, None)
        delays = {worker: InOrder(log, worker) for worker in everyone}
        cluster = VirtualCluster(server, workers, box, delays)
        for delay in delays.values():
            delay.cluster = cluster
        records: list[Record] = []
        cluster.run(records.extend)
        iterations = [each for each in records if isinstance(each, Iteration)]
        reports = [used.report for each in iterations for used in each.reports]
        logged = log["iteration/z"], log["report/p"], log["report/q"], log["iteration/active"]
    np.testing.assert_array_equal(logged[0][1:], [each.z for each in iterations])
    np.testing.assert_array_equal(logged[1], [report.p for report in reports])
    np.testing.assert_array_equal(logged[2], [report.q for report in reports])
    np.testing.assert_array_equal(logged[3], [each.active for each in iterations])
    assert sum(each.estimation is not None for each in iterations) == 20
