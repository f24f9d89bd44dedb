"""With log.private q, losses of samples and demonstrations stay home, and runs are the same."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.log.home import HomeFiles, read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.messages import (
    NOTHING,
    WITHOUT,
    Candidate,
    Costs,
    EvaluationRequest,
    Hello,
    LowerReport,
    MalformedMessage,
    Report,
    Shapes,
    Split,
)
from asyndbt_mpi.protocol.private import RANDOM, Choices, Kept
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.protocol.wire import Codec
from asyndbt_mpi.transport.delay import Delays
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.summary import learnt_prompts
from tests.conftest import Opinionated
from tests.helpers import Result, asyndbt, complaints, sets

EVERYONE = [1, 2, 3]
SHAPES = Shapes(positions=3, words=4, classes=2, pool=5, samples=4)
SYNTHETIC = (
    *("run.iterations=30", "run.evaluate_every=8", "algorithm.plane_period=5"),
    *("algorithm.lower_gradient=black_box", "algorithm.tolerance=0", "algorithm.active_workers=2"),
    *("delay.model=lognormal", "delay.mean=1"),
)


def simulated(folder: Path, *settings: str, output: str = "run.h5") -> Result:
    command = "simulate", "synthetic", "--output", output, *sets(*SYNTHETIC, *settings)
    return asyndbt(*command, folder=folder)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """The log of a private run."""
    done = simulated(tmp_path, "log.private=true")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run.h5"


def test_the_run_is_the_same_and_its_secrets_are_at_home(private: Path) -> None:
    simulated(private.parent, output="public.h5")
    with Log(private) as log, Log(private.parent / "public.h5") as public:
        same = [
            *(
                "iteration/z",
                "report/p",
                "report/loss",
                "report/worker",
                "lower/phi_p",
                "dual/value",
            ),
            *("evaluation/loss", "evaluation/words", "evaluation/candidate", "event/worker"),
        ]
        for path in same:
            np.testing.assert_array_equal(log[path], public[path], path)
        assert np.isnan(log["report/q"]).all()
        assert (log["lower/k"] == WITHOUT).all()
        assert len(public["lower/k"]) > 3
        for worker in EVERYONE:
            kept = read(private.parent / "run.h5.home" / f"worker-{worker}.jsonl").kept
            events = public["event/worker"] == worker
            losses = public["event/losses"][events & ~np.isnan(public["event/losses"][:, 0])]
            assert len(kept) == len(losses)
            for one, other in zip(kept, losses, strict=True):
                np.testing.assert_array_equal(one.losses, other[: len(one.losses)])
            q = public["report/q"][public["report/worker"] == worker]
            steps = [each for each in kept if each.kind == "report"]
            np.testing.assert_array_equal([each.q for each in steps][: len(q)], q)
            k = public["lower/k"][:, worker - 1]
            drawn = [each.demonstrations for each in kept if each.kind == "lower_report"]
            np.testing.assert_array_equal(drawn[:: len(drawn) // len(k)], k)
            shown = public["evaluation/demonstrations"][public["evaluation/worker"] == worker]
            scored = [each.demonstrations for each in kept if each.accuracy is not None]
            np.testing.assert_array_equal(scored, shown)
        # In the log all samples have their mean, and demonstrations the numbers of the choices.
        told = log["event/losses"]
        np.testing.assert_array_equal(np.where(np.isnan(told), 0.0, told - told[:, :1]), 0.0)
        known = {each.choice for each in kept}
        of_worker = log["evaluation/demonstrations"][log["evaluation/worker"] == EVERYONE[-1]]
        assert set(of_worker.ravel().tolist()) <= known


def test_words_are_shown_of_a_run_without_evaluations(tmp_path: Path) -> None:
    done = simulated(tmp_path, "log.private=true", "run.evaluate_every=0")
    assert done.returncode == 0, done.stderr
    with Log(tmp_path / "run.h5") as log:
        newest = {v: log["report/p"][log["report/worker"] == v][-1] for v in EVERYONE}
        learnt, vocabulary = learnt_prompts(log), log.vocabulary
    assert sorted(learnt) == EVERYONE
    said = asyndbt("show", "run.h5", folder=tmp_path).stdout
    assert "No worker's report" not in said
    for worker, (words, demonstrations) in learnt.items():
        np.testing.assert_array_equal(words, newest[worker].argmax(axis=1))
        assert not demonstrations.size
        first = re.escape(vocabulary[words[0]])  # the table breaks the others
        assert re.search(f"\\b{worker}\\W+{first} .*\N{EN DASH}", said)
    assert "consensus" in said


def test_what_reads_a_log_works_or_says_why_not(private: Path) -> None:
    folder = private.parent
    found = verify(private)
    assert found.violations == []
    assert any("log.private" in note for note in found.notes)
    for works in (
        ("show", "run.h5"), ("report", "run.h5", "-o", "run.html"), ("watch", "run.h5", "--once"),
        ("plot", "convergence", "run.h5", "-o", "run.png"), ("verify", "run.h5"),
        ("show", "run.h5.home/worker-2.jsonl"),
    ):  # fmt: skip
        done = asyndbt(*works, folder=folder)
        assert done.returncode == 0, (works, done.stderr)
    for refused in (
        ("replay", "run.h5"), ("stationarity", "run.h5"),
        ("simulate", "synthetic", "--resume", "--output", "run.h5", *sets("log.private=true")),
    ):  # fmt: skip
        done = asyndbt(*refused, folder=folder)
        assert done.returncode == 2
        [line] = complaints(done)
        assert "with the workers alone (log.private = true)" in line


def test_prompts_of_a_private_run_are_refused(tmp_path: Path) -> None:
    path, _ = demo(tmp_path)
    for command in (("show", path.name, "--prompts"), ("prompt", path.name)):
        done = asyndbt(*command, folder=tmp_path)
        assert done.returncode == 2
        assert "log.private = true" in done.stderr
    assert verify(path).violations == []
    assert asyndbt("show", path.name, "--classes", folder=tmp_path).returncode == 0


def demo(folder: Path) -> tuple[Path, list[bytes]]:
    """A private run of the demo, by a model that takes no time; and all that its workers sent."""
    settings = "run.iterations=8", "run.evaluate_every=2", "task.test=40", "log.private=true"
    # Other sizes than those of the pools, or p and q have numbers in common.
    config: Config = load("demo", [*settings, "prompt.vocabulary_size=7"])
    materials = prepare(config, 3)
    home = HomeFiles({v: folder / "home" / f"worker-{v}.jsonl" for v in EVERYONE}, "demo", False)
    workers, box = workers_with_black_box(config, materials, EVERYONE, Opinionated(), home)
    server = Server(config, materials.shapes, 3)
    delays = {v: Delays(config.delay, config.run.seed, v, 3) for v in EVERYONE}
    codec = Codec(materials.shapes, free_losses=False, rows=100, private=True)
    sent: list[bytes] = []
    receive = server.receive

    def received(worker, message, time):
        buffer = codec.encode(message)
        sent.append(buffer.tobytes())
        return receive(worker, codec.decode(buffer), time)

    server.receive = received  # type: ignore[method-assign]
    path, words = folder / "demo.h5", materials.vocabulary
    with Writer(path, config, materials.shapes, 3, words, "virtual", server.algorithm.z) as writer:
        VirtualCluster(server, workers, box, delays).run(writer.write_all)
    return path, sent


def test_no_message_has_what_is_private(tmp_path: Path) -> None:
    path, sent = demo(tmp_path)
    everything = b"".join(sent) + path.read_bytes()
    some = 0
    for worker in EVERYONE:
        for kept in read(tmp_path / "home" / f"worker-{worker}.jsonl").kept:
            of_test = kept.kind.endswith(f"on {Split.TEST.name.lower()}")
            secrets = [] if of_test else [*kept.losses[kept.losses != kept.loss]]
            q = np.zeros(0) if kept.q is None else kept.q
            secrets += [*q[(q > 0) & (q < 1) & (q != 1 / 8)]]  # it starts uniform
            for number in secrets:
                assert np.float64(number).tobytes() not in everything
            some += len(secrets)
    assert some > 1000
    assert np.float64(kept.loss).tobytes() in everything


def test_choices_are_numbered_by_what_they_are() -> None:
    choices = Choices(np.array([2, 0]))
    assert [choices.number(np.array(each)) for each in ([1, 1], [2, 0], [1, 1], [0, 1])] == [
        1, RANDOM, 1, 2,
    ]  # fmt: skip
    none = np.full(2, WITHOUT)
    assert choices.number(none) == WITHOUT
    assert choices.of(none).tolist() == [WITHOUT, WITHOUT]
    assert choices.of(np.array([2, 2])).tolist() == [0, 1]
    for numbers in ([3, 3], [0, 1], [-2, -2]):
        with pytest.raises(MalformedMessage, match="no choice of the worker"):
            choices.of(np.array(numbers))


def test_a_home_is_of_one_run_and_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "home" / "worker-1.jsonl"
    kept = Kept("report", 1, 0, 2, np.array([1, 2]), np.array([0.5, 0.7]), 0.6, q=np.eye(2))
    home = HomeFiles({1: path}, "demo", overwrite=False)
    assert not path.exists()  # a run that asks nothing leaves nothing
    home.keep(1, kept)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with path.open("a") as file:
        file.write('{"kind": "rep')
    found = read(path)
    assert (found.run, found.worker, len(found.kept)) == ("demo", 1, 1)
    np.testing.assert_array_equal(found.kept[0].q, kept.q)
    with pytest.raises(ConfigurationError, match="already exists"):
        HomeFiles({1: path}, "demo", overwrite=False)
    HomeFiles({1: path}, "demo", overwrite=True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (json.dumps({"format": "other"}), "is no file of a worker's home"),
        (
            json.dumps({"format": "asyndbt home", "run": "a", "worker": 1}) + '\n{"kind": 1}',
            "damaged",
        ),
        ("{", "is damaged"),
    ],
)
def test_another_file_is_no_home(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content + "\n")
    done = asyndbt("show", "rows.jsonl", folder=tmp_path)
    assert done.returncode == 2
    assert why in complaints(done)[0]


def test_models_that_are_shared_are_not_private() -> None:
    assert load("demo", ["log.private=true"]).algorithm.lower_gradient == "black_box"
    with pytest.raises(ConfigurationError, match=r"log.private = true needs algorithm.lower_grad"):
        load("demo", ["log.private=true", "algorithm.lower_gradient=model"])


def test_messages_of_a_private_run_have_no_room_for_what_is_private() -> None:
    codec, open_codec = (Codec(SHAPES, private=private) for private in (True, False))
    p, q, losses = np.full((3, 4), 0.25), np.full((2, 5), 0.2), np.full(4, 0.5)
    k = np.zeros(2, dtype=int)
    report = Report(1, 0, 0.5, 1.0, 1.0, Costs(), 0.0, p, NOTHING, losses, choice=7)
    lower = LowerReport(1, 0, 0.5, Costs(), p, k[:0], losses)
    hello = Hello(NOTHING, "node-1", choice=3)
    sizes = [len(codec.encode(message)) for message in (report, lower, hello)]
    public = replace(report, q=q, choice=WITHOUT), replace(lower, k=k), replace(hello, q=q)
    assert [len(open_codec.encode(each)) for each in public] == [
        sizes[0] + q.nbytes, sizes[1] + 8 * 2, sizes[2] + q.nbytes,
    ]  # fmt: skip
    for message, choice in ((report, 7), (hello, 3)):
        read = codec.decode(codec.encode(message))
        assert isinstance(read, Report | Hello)
        assert (read.choice, read.q.size) == (choice, 0)
    for message in (replace(report, choice=WITHOUT), replace(hello, choice=-9)):
        with pytest.raises(MalformedMessage, match="choice is"):
            codec.decode(codec.encode(message))


@pytest.mark.parametrize("shown", [[4, 5], [-7, -7], [WITHOUT, 2]])
def test_demonstrations_that_are_no_choice_are_refused(shown: list[int]) -> None:
    codec = Codec(SHAPES, private=True)
    request = EvaluationRequest(
        0, Split.VALIDATION, Candidate.TUNED, np.zeros(3, int), np.array(shown)
    )
    with pytest.raises(MalformedMessage, match="are no choice"):
        codec.decode(codec.encode(request))
    many = replace(request, demonstrations=np.full(2, 1000))  # more choices than demonstrations
    assert codec.decode(codec.encode(many)).demonstrations.tolist() == [1000, 1000]
