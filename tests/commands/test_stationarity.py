"""`asyndbt stationarity` against the definition, worked out from the states of the run itself."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from asyndbt_mpi.algorithm.simplex import project
from asyndbt_mpi.assemble import workers_with_black_box
from asyndbt_mpi.cli import cli
from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.commands.stationarity import _Estimated, _measure, add
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log import annotate
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind, Iteration, Output
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.transport.virtual import VirtualCluster

R, PERIOD = 4, 5
SETTINGS = (
    "run.iterations=40",
    "algorithm.tolerance=0",
    f"algorithm.plane_period={PERIOD}",
    "prompt.fragment_length=4",
    "prompt.vocabulary_size=5",
    "prompt.pool=3",
    "steps.optimizer=sgd",
    "delay.model=lognormal",
    "delay.mean=1",
)


def squared_norms(server: Server, box: Synthetic) -> list[float]:
    """The parts of ||grad G||^2 by the definition, with derivatives by central differences."""
    planes, steps = server.algorithm.polyhedron, server.config.steps
    in_force = planes.active[:, :, None]

    def lagrangian(p: np.ndarray, q: np.ndarray, z: np.ndarray, dual: np.ndarray) -> float:
        a = planes.a.transpose(2, 0, 1, 3)  # (planes, R, M, N)
        b = planes.b.transpose(1, 0, 2) * in_force
        values = np.einsum("lvij,vij->li", a, p) + np.einsum("lij,ij->li", b, z) + planes.c
        f = box.expected_loss(p, q, np.arange(R)).sum()
        return float(f + (dual * values)[planes.active].sum())

    point = [
        server.algorithm.p.copy(),
        server.algorithm.q.copy(),
        server.algorithm.z.copy(),
        planes.dual.copy(),
    ]
    sizes = steps.p, steps.q, steps.z, steps.lam
    norms = []
    for variable, size in zip(range(4), sizes, strict=True):
        x = point[variable]
        gradient = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            kept = x[index]
            ends = []
            for change in (0.5, -0.5):  # L_p is linear in each entry
                x[index] = kept + change
                ends.append(lagrangian(*point))
            x[index] = kept
            gradient[index] = ends[0] - ends[1]
        if variable < 3:
            moved = project(x - size * gradient)
        else:
            bound = server.config.algorithm.dual_bound
            moved = np.clip(x + size * gradient, 0, bound) * planes.active
        norms.append(float((((x - moved) / size) ** 2).sum()))
    return norms


def run(folder: Path, *settings: str) -> Path:
    path = folder / "run.h5"
    request = Request("synthetic", (*SETTINGS, *settings), str(path), True, False)
    simulate_silently(Job.of(request, R), 1)
    return path


def run_with_norms(folder: Path, *settings: str) -> tuple[Path, dict[int, list[float]]]:
    """A run, and the norms by the definition after each of its iterations."""
    path = folder / "run.h5"
    request = Request("synthetic", (*SETTINGS, *settings), str(path), True, False)
    job = Job.of(request, R)
    expected = {}

    class Observed(Server):
        def _send(self, out: Output, committed: Iteration) -> None:
            super()._send(out, committed)
            expected[self.iteration - 1] = squared_norms(self, box)

    server = Observed(job.config, job.materials.shapes, R)
    workers, box = workers_with_black_box(job.config, job.materials, range(1, R + 1), None)
    assert isinstance(box, Synthetic)
    with job.open_log("virtual", server.algorithm.z) as writer:
        VirtualCluster(server, workers, box, job.delays).run(writer.write_all)
    return path, expected


@pytest.mark.parametrize("distance", ["l1", "l2sq"])
def test_it_is_the_definition(tmp_path: Path, distance: str) -> None:
    path, expected = run_with_norms(tmp_path, f"algorithm.lower_distance={distance}")
    text = add(path, every=1, samples=2, quiet=True)
    assert text.startswith(f"{path}: exact, ||grad G||^2 is ")
    with Log(path) as log:
        found = log.stationarity
        assert len(log["plane/id"]) > 4
    assert found is not None
    assert found.kind == "exact"
    assert found.iteration.tolist() == list(range(40))
    parts = np.column_stack([found.p, found.q, found.z, found.lam])
    due = np.array([expected[row] for row in range(40)])
    np.testing.assert_allclose(parts, due, rtol=1e-6, atol=1e-8)
    assert (due[PERIOD - 1 :: PERIOD, 3] > 0).all()  # a new plane cuts the current point off
    assert (due[-5:, 2] > 0).any()
    np.testing.assert_allclose(found.squared_norm, parts.sum(axis=1))
    assert verify(path).violations == []


def test_verify_looks_at_it(tmp_path: Path) -> None:
    path = run(tmp_path)
    add(path, every=1, samples=2, quiet=True)
    with h5py.File(path, "r+") as file:
        file["stationarity/p"][7] = -1e9
        file["stationarity/iteration"][39] = 40
    violations = verify(path).violations
    assert len(violations) == 3
    assert "/stationarity differs from its checksum" in violations
    assert "iteration 7: ||grad G||^2 is -1e+09" in violations
    assert "not the run's" in "".join(violations)


@pytest.mark.parametrize("damage", ["kind", "another kind", "length"])
def test_what_is_damaged_is_named(tmp_path: Path, damage: str) -> None:
    path = run(tmp_path)
    add(path, every=1, samples=2, quiet=True)
    with h5py.File(path, "r+") as file:
        if damage == "length":
            file["stationarity/q"].resize(7, axis=0)
        elif damage == "kind":
            del file["stationarity"].attrs["kind"]
        else:
            file["stationarity"].attrs["kind"] = "guessed"
    checksum, violation = verify(path).violations
    assert checksum == "/stationarity differs from its checksum"
    assert "/stationarity" in violation
    with Log(path) as log, pytest.raises(LogError, match="/stationarity"):
        _ = log.stationarity


def test_a_damaged_log_gets_nothing(tmp_path: Path) -> None:
    path = run(tmp_path)
    for dataset, value in (("report/p", np.nan), ("report/worker", 99)):
        with h5py.File(path, "r+") as file:
            kept = file[dataset][20]
            file[dataset][20] = value
        code, said = command(path)
        assert (code, said) == (1, f"{path}: is damaged; asyndbt verify tells where")
        with h5py.File(path, "r+") as file:
            file[dataset][20] = kept


def test_an_excluded_worker_counts_no_more(tmp_path: Path) -> None:
    path = run(tmp_path)
    add(path, every=1, samples=2, quiet=True)
    with Log(path) as log:
        everybody = log.stationarity
    with h5py.File(path, "r+") as file:  # as if worker 4 had gone right before its last report
        row = np.flatnonzero(file["event/worker"][:] == R)[-1]
        iteration = int(file["event/iteration"][row])
        file["event/kind"][row] = EventKind.EXCLUDED
    add(path, every=1, samples=2, quiet=True)
    with Log(path) as log:
        others = log.stationarity
    assert everybody is not None
    assert others is not None
    before, after = slice(0, iteration), slice(iteration, None)
    np.testing.assert_array_equal(others.p[before], everybody.p[before])
    assert (others.p[after] < everybody.p[after]).all()
    assert (others.q[after] < everybody.q[after]).all()


def test_every_nth_and_the_last(tmp_path: Path) -> None:
    path = run(tmp_path)
    add(path, every=1, samples=2, quiet=True)
    with Log(path) as log:
        every = log.stationarity
    add(path, every=7, samples=2, quiet=True)  # in place of the first
    with Log(path) as log:
        some = log.stationarity
    assert every is not None
    assert some is not None
    assert some.iteration.tolist() == [6, 13, 20, 27, 34, 39]
    np.testing.assert_allclose(some.squared_norm, every.squared_norm[some.iteration])


def test_the_estimate_of_a_language_model_agrees_with_the_closed_form(tmp_path: Path) -> None:
    path = run(tmp_path, "run.iterations=12")
    add(path, every=1, samples=2, quiet=True)
    with Log(path) as log:
        box = Synthetic(log.seed, log.shapes, range(1, R + 1), log.config.llm.heterogeneity)
        allowed = np.ones((R, log.shapes.classes, log.shapes.pool), dtype=bool)
        estimated = _measure(log, _Estimated(box, log.seed, 3000), allowed, 1, quiet=True)
        exact = log.stationarity
    assert exact is not None
    assert estimated.kind == "estimated"
    np.testing.assert_allclose(estimated.p, exact.p, rtol=0.15)
    np.testing.assert_allclose(estimated.q, exact.q, rtol=0.15, atol=0.1)
    np.testing.assert_allclose(estimated.z, exact.z)


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["stationarity", *map(str, arguments)], obj=False)
    return result.exit_code, result.output if result.exception is None else str(result.exception)


def test_a_log_that_cannot_be_worked_on_stays_as_it_is(tmp_path: Path) -> None:
    path = run(tmp_path, "log.iterates=3")
    before = path.read_bytes()
    assert command(path)[1].endswith("lacks iterates; the run needs log.iterates = 'all'")
    assert path.read_bytes() == before
    with h5py.File(path, "r+") as file:
        file.attrs["status"] = "running"
    before = path.read_bytes()
    assert "the run has not finished" in command(path)[1]
    assert path.read_bytes() == before
    assert command(tmp_path / "absent.h5")[1] == f"{tmp_path / 'absent.h5'}: no such file"


def test_a_failure_on_the_way_leaves_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run(tmp_path)
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(annotate.os, "replace", refuse)
    with pytest.raises(LogWriteError, match=r"is unchanged.*no space left"):
        add(path, every=1, samples=2, quiet=True)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]


def test_two_at_the_same_log_leave_it_whole(tmp_path: Path) -> None:
    path = run(tmp_path)
    add(path, every=1, samples=2, quiet=True)
    with Log(path) as log:
        found = log.stationarity
    assert found is not None

    def add_again(_: int) -> bool:
        try:
            annotate.add_stationarity(path, found)
        except LogError as error:
            if "another process is writing" not in str(error):
                raise
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert any(pool.map(add_again, range(40)))
    assert verify(path).violations == []
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = run(tmp_path)
    before = path.read_bytes()
    command = [sys.executable, "-m", "asyndbt_mpi", "stationarity", str(path)]
    # A limit on the size of files stands for the end of the disk.
    blocks = len(before) // 1024 + 20
    shell = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *command]
    result = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "is unchanged" in result.stderr
    assert "Traceback" not in result.stderr
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]
