"""Every attack in ranks of its own, under the default defence: one liar of four workers."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import pytest
from mpi4py import MPI
from rich.console import Console

import asyndbt_mpi as adbt
from asyndbt_mpi.adversary.attacks import LIES, OMNISCIENT
from asyndbt_mpi.adversary.colluders import MALFORMED, Colluders
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.inputs.trust import Attack
from asyndbt_mpi.log.home import read
from asyndbt_mpi.protocol.blackbox import Completed
from asyndbt_mpi.protocol.messages import (
    Candidate,
    EvaluationReport,
    LowerReport,
    Report,
    RowScores,
    Split,
    ToServer,
)
from asyndbt_mpi.protocol.records import EventKind
from asyndbt_mpi.protocol.scoring import scored
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.view.outcomes import outcomes
from asyndbt_mpi.view.summary import print_summary
from tests.llm.api_server import Manners, serving

COMM = MPI.COMM_WORLD
RANK, LIAR = COMM.Get_rank(), 4
HONEST = 1, 2, 3
SETTINGS = (
    *("run.iterations=30", "algorithm.active_workers=3", "algorithm.max_delay=3"),
    *("algorithm.plane_period=5", "algorithm.tolerance=0", "algorithm.lower_gradient=black_box"),
)
SMALL = "prompt.fragment_length=3", "prompt.vocabulary_size=5", "prompt.pool=3"
EXACT = (*SETTINGS, *SMALL, "estimator.name=exact")
pytestmark = [
    pytest.mark.mpi(min_size=5),
    pytest.mark.skipif(COMM.Get_size() != 5, reason="of four workers one may lie"),
]


Said: TypeAlias = list[tuple[int, ToServer, ToServer]]
"""What the liar has seen of the honest and would have reported, in order, and what it told."""


def run(path: Path, *settings: str, source: str = "synthetic") -> Said:
    """On all ranks; the log is whole, all its numbers are finite, and nobody is lost."""
    said: Said = []
    with pytest.MonkeyPatch.context() as patch:
        original = Colluders.report

        def report(self: Colluders, worker: int, message: ToServer) -> ToServer:
            told = original(self, worker, message)
            said.append((worker, message, told))
            return told

        if RANK == LIAR:
            patch.setattr(Colluders, "report", report)
        adbt.run(adbt.load(source, list(settings)), path)
    said = COMM.bcast(said, root=LIAR)
    if RANK == 0:
        assert adbt.verify(path).violations == []
        with adbt.Log(path) as log:
            assert (log.status, log.committed) == ("finished", log.config.run.iterations)
            assert not (log["event/kind"] == EventKind.LOST).any()
            for name in (
                *("iteration/z", "iteration/objective", "report/p", "report/loss", "dual/value"),
            ):
                assert np.isfinite(log[name]).all()
    return said


def gain(path: Path) -> float:
    """By how much the honest workers' exact losses have fallen, on average."""
    with adbt.Log(path) as log:
        worker, loss = log["report/worker"], log["report/loss"]
    of_each = (loss[worker == honest] for honest in HONEST)
    return float(np.mean([losses[0] - losses[-1] for losses in of_each]))


@pytest.fixture(scope="module")
def unattacked(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The `gain` at rank 0 where the fourth worker is honest, too."""
    path = COMM.bcast(tmp_path_factory.mktemp("honest") / "run.h5")
    run(path, *EXACT)
    return gain(path) if RANK == 0 else 0.0


@pytest.mark.parametrize("attack", sorted({*get_args(Attack)} - {"bad_demonstrations"}))
def test_an_attack(shared_path: Path, unattacked: float, attack: str) -> None:
    """The honest lose nothing to speak of; the lies are those that the simulator tells."""
    path = shared_path / "run.h5"
    said = run(path, *EXACT, "adversary.workers=1", f"adversary.attack={attack}")
    if RANK:
        return
    assert gain(path) > 0.85 * unattacked > 0
    with adbt.Log(path) as log:
        assert log.config.defence.tolerated(log.workers) == 1
        excluded = log["event/worker"][log["event/kind"] == EventKind.EXCLUDED].tolist()
        assert excluded == ([LIAR] if attack in ("nan", "malformed") else [])
        assert bool(said) == (attack in {*LIES, MALFORMED})
        check_lies(log, said)
        seen = {worker for worker, _, _ in said} - {LIAR}
        assert seen == ({*HONEST} if attack in OMNISCIENT else set())
    if attack not in OMNISCIENT:  # of which the log does not say what it had seen
        assert adbt.replay(path).difference is None


def check_lies(log: adbt.Log, said: Said) -> None:
    """Simulated colluders say the same; it has seen what the honest told, and told what is logged."""
    simulated = Colluders(log.config, log.shapes, frozenset({LIAR}))
    keys = zip(log["report/worker"].tolist(), log["report/seq"].tolist(), strict=True)
    logged = dict(zip(keys, log["report/p"], strict=True))
    for worker, message, told in said:
        again = simulated.report(worker, message)
        if isinstance(told, EvaluationReport):
            continue
        assert isinstance(told, Report | LowerReport)
        assert isinstance(again, Report | LowerReport)
        np.testing.assert_array_equal(told.p, again.p)
        key = worker, told.number
        if isinstance(told, Report) and key in logged:
            np.testing.assert_array_equal(onto_simplex(told.p), logged[key])


@pytest.mark.filterwarnings("ignore:.* has none of the labels")
def test_an_attack_by_bad_demonstrations(shared_path: Path) -> None:
    """Which needs rows, and a model that they are shown to; asked again, it answers the same."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(Manners())) if RANK == 0 else None
        url = COMM.bcast(server.url if server else "")
        settings = (
            *("run.iterations=6", "run.evaluate_every=0", "task.test=0"),
            *("estimator.samples=2", "estimator.batch=2", "task.calibration=none"),
            *("llm.backend=openai", "llm.model=toy", "llm.api=completion", "llm.key_variable="),
            *(f"llm.base_url={url}", "adversary.workers=1"),
            "adversary.attack=bad_demonstrations",
        )
        path = shared_path / "run.h5"
        run(path, *SETTINGS, *settings, source="reviews")
        if RANK == 0:
            config = adbt.load("reviews", [*SETTINGS, *settings])
            assert adbt.replay(path, config=config).difference is None
        COMM.Barrier()  # until then the server is needed


def told(how: str, report: EvaluationReport) -> EvaluationReport:
    """``report`` on the test rows with the "labels" exchanged, or of the "row" that is first."""
    rows = report.rows
    if report.split is not Split.TEST or not isinstance(rows, RowScores):
        return report
    end = 1 if how == "row" else len(rows)
    labels = rows.labels[:end] if how == "row" else 1 - rows.labels
    of = RowScores(labels, rows.log_probabilities[:end])
    losses, accuracies = scored(of.log_probabilities[None], labels)
    return replace(report, rows=of, loss=float(losses[0]), accuracy=float(accuracies[0]))


@pytest.mark.filterwarnings("ignore:.* has none of the labels")
@pytest.mark.parametrize("how", ["labels", "row"])
def test_false_rows_in_a_test_exclude_their_worker(shared_path: Path, how: str) -> None:
    """They agree with themselves. The others' tests are made, and can be shown."""
    original = Workers.answer

    def answer(self: Workers, completed: Sequence[Completed]) -> list[ToServer]:
        replies = original(self, completed)
        return [told(how, each) if isinstance(each, EvaluationReport) else each for each in replies]

    path = shared_path / "run.h5"
    with ExitStack() as stack:
        server = stack.enter_context(serving(Manners())) if RANK == 0 else None
        url = COMM.bcast(server.url if server else "")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if RANK == LIAR:
            patch.setattr(Workers, "answer", answer)
        run(
            path,
            *("run.iterations=4", "run.evaluate_every=2", "run.race=2", "task.test=8"),
            *("estimator.samples=2", "estimator.batch=2", "task.calibration=none"),
            *("llm.backend=openai", "llm.model=toy", "llm.api=completion", "llm.key_variable="),
            *(f"llm.base_url={url}", "algorithm.active_workers=3"),
            source="reviews",
        )
        COMM.Barrier()  # until then the server is needed
    if RANK:
        return
    with adbt.Log(path) as log:
        excluded = log["event/kind"] == EventKind.EXCLUDED
        assert log["event/worker"][excluded].tolist() == [LIAR]
        (why,) = log["event/text"][excluded].tolist()
        assert ("names other labels than the data have for 8 of 8" in why) == (how == "labels")
        assert ("scored 1 TEST rows, not the 8" in why) == (how == "row")
        assert {*outcomes(log)[Candidate.TUNED].answers} == {*HONEST}
        print_summary(log, Console(file=StringIO()))


def test_an_attack_on_a_private_run(shared_path: Path) -> None:
    """Colluders see what is told: a p, but no q, no single loss."""
    path = shared_path / "run.h5"
    private = "log.private=true", "run.evaluate_every=10", "task.test=0"
    attack = "adversary.workers=1", "adversary.attack=alie"
    said = run(path, *SETTINGS, *SMALL, *private, *attack)
    if RANK:
        return
    shown = [message for worker, message, _ in said if worker != LIAR]
    assert {type(message) for message in shown} == {Report, LowerReport, EvaluationReport}
    for message in shown:
        if isinstance(message, Report):
            assert message.q.size == 0
            assert (message.losses == message.loss).all()
    with adbt.Log(path) as log:
        check_lies(log, said)
        assert np.isnan(log["report/q"]).all()
        reports = np.bincount(log["report/worker"], minlength=LIAR + 1)
    for worker in (*HONEST, LIAR):
        kept = read(Path(f"{path}.home") / f"worker-{worker}.jsonl").kept
        assert sum(each.kind == "report" for each in kept) >= reports[worker] > 5
