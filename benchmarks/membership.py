"""Is this text in a worker's data? What its own reports over a run tell of that.

Example: python benchmarks/membership.py -o runs/membership --seeds 10

The attacker is a curious rank 0: it has the log of a run, the seed, the template, the words and the
model, and asks of each candidate, a text with its label, whether it is one of the rows of a
worker. Half of the candidates are, the others are test rows. It tries three ways:

    rows    the loss of the candidate, without words and demonstrations, is one of the losses of
            single rows in the worker's race
    means   the mean losses of the reports, each on a batch of training rows that the seed gives,
            are solved for the loss of each row; the candidate's own loss is near one of them
    words   the words that the worker has learnt lower the loss of the candidate more than others do

Each gives a score, by which the area under the ROC curve (AUC) is that of the candidates: 0.5 is
guessing, 1 is certainty. A cell is one run under one setting and seed. What an attack finds is a
lower bound of what there is to be found; these use neither costs nor times.
Finished cells are kept in the folder's cells.jsonl, and not made again.
"""

import argparse
import json
import math
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from scipy import stats

from asyndbt_mpi.algorithm.random import Purpose
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.assemble import Materials, delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.llm.base import LanguageModel, Prompt, Scores, Written
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.log.home import HomeFiles, read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import DataSizes, Query
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, Split
from asyndbt_mpi.protocol.sampling import Draws
from asyndbt_mpi.protocol.server import Server
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.transport.virtual import VirtualCluster

SETTINGS = {
    "as it is": [],
    "log.private": ["log.private=true"],
    "noise 8": ["log.private=true", "privacy.noise=8"],
}
TESTS = 100
OF_ALL = [
    *("run.evaluate_every=8", "task.calibration=none", "delay.model=lognormal", "delay.mean=1"),
]
SHIFT = 1.0
"""Nats by which prompts may have moved the losses of all rows."""
ATTACKS = ("rows", "means", "words")


class Words:
    """Stands for a language model: the odds of a label are sums over the words of the prompt.

    A word counts by how often the shipped reviews that have it have the label, and by a random
    number that its text gives; so do pairs of a word of the fragment and a word of the review, and,
    less, the words of the context. So prompts matter, and no run takes long.
    """

    description, digest = "sums over words", "0f"
    at_once: int | None = None

    def __init__(self) -> None:
        folder = resources.files("asyndbt_mpi") / "task" / "data" / "reviews"
        lines = [(folder / name).read_text().splitlines() for name in ("train.jsonl", "dev.jsonl")]
        rows = [json.loads(line) for line in chain(*lines)]
        self._counts = Counter((word, row["label"]) for row in rows for word in _words(row))

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `LanguageModel`."""
        odds = np.array([[self._odds(p, n) for n in range(len(labels))] for p in prompts])
        scores = odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)
        return Scores(scores, len(prompts), len(prompts))

    def _odds(self, prompt: Prompt, label: int) -> float:
        own, before = prompt.query.split(), prompt.context.split()[-20:]
        meant = sum(math.log(1 + self._counts[word.lower(), label]) for word in own)
        of_words = sum(_random(f"{word} {label}") for word in own)
        of_pairs = sum(_random(f"{one} {other} {label}") for one in own[-3:-1] for other in own[:9])
        of_context = sum(_random(f"{word} {label}") for word in before)
        return 0.2 * meant + 0.5 * of_words + 0.7 * of_pairs + 0.4 * of_context

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `LanguageModel`."""
        raise NotImplementedError

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """See `LanguageModel`."""
        return prompts

    def longest(self, text: str) -> int:
        """See `LanguageModel`."""
        return len(text)


class DeafWords(Words):
    """To whom prompts do not matter, so that means of losses can be solved for rows exactly."""

    description, digest = "deaf sums over words", "1f"

    def _odds(self, prompt: Prompt, label: int) -> float:
        return super()._odds(Prompt("", prompt.query.partition("\n")[0] + " so it is"), label)


def _words(row: dict[str, Any]) -> set[str]:
    return set(row["sentence1"].lower().split())


def _random(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32 - 0.5


# ---------------------------------------------------------------- attacks


def auc(of_members: FloatArray, of_others: FloatArray) -> float:
    """The share of pairs in which the member has the larger score; ties count half."""
    above = of_members[:, None] - of_others
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def nearest(losses: FloatArray, known: FloatArray) -> FloatArray:
    """For each of the ``losses`` of candidates (n,), less the distance to the nearest ``known``."""
    if not len(known):
        return np.zeros(len(losses))
    distances: FloatArray = np.abs(losses[:, None] - known).min(axis=1)
    return -distances


def solved(means: FloatArray, batches: Sequence[IntArray], rows: int) -> FloatArray:
    """The loss of each row (rows,) that ``means`` (n,) over ``batches`` give, with a trend.

    Ridge regression, whose strength is that of a row's loss against the rest.
    """
    share = np.zeros((len(means), rows))
    for number, batch in enumerate(batches):
        share[number, batch] = 1 / len(batch)
    time = np.linspace(-1, 1, len(means))
    trend = np.stack([np.ones_like(time), time, time**2], axis=1)
    off_trend = np.eye(len(means)) - trend @ np.linalg.pinv(trend)
    design, due = off_trend @ share, off_trend @ means
    strength = 1e-3 * np.trace(design.T @ design) / rows
    found: FloatArray = np.linalg.solve(design.T @ design + strength * np.eye(rows), design.T @ due)
    return found


def aligned(found: FloatArray, losses: FloatArray) -> FloatArray:
    """``found`` (rows,) at the level at which it fits the ``losses`` of candidates best."""
    shifts = np.linspace(-SHIFT, SHIFT, 401)
    misses = [-nearest(found + shift, losses).mean() for shift in shifts]
    aligned: FloatArray = found + shifts[int(np.argmin(misses))]
    return aligned


# ---------------------------------------------------------------- a run, and what is attacked


@dataclass(frozen=True)
class Cell:
    """One run."""

    model: str
    setting: str
    iterations: int
    seed: int

    @property
    def key(self) -> str:
        """Of the cell's line in the file."""
        return json.dumps(asdict(self), sort_keys=True)


def configuration(cell: Cell, setting: Sequence[str], tests: int) -> Config:
    """Of a run, or of the same data with so many test rows."""
    return load(
        "reviews",
        [
            *OF_ALL,
            *setting,
            f"run.iterations={cell.iterations}",
            f"run.seed={cell.seed}",
            f"task.test={tests}",
        ],
    )


def run(cell: Cell, model: LanguageModel) -> dict[str, float]:
    """AUC of each attack, the mean over workers; and the accuracy of the workers' prompts."""
    config = configuration(cell, SETTINGS[cell.setting], tests=0)
    materials, everyone = prepare(config, 3), [1, 2, 3]
    workers = len(everyone)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.h5")
        files = {v: Path(folder, "home", f"worker-{v}.jsonl") for v in everyone}
        home = HomeFiles(files, "membership", overwrite=True)
        machines, box = workers_with_black_box(config, materials, everyone, model, home)
        server = Server(config, materials.shapes, workers)
        cluster = VirtualCluster(server, machines, box, delays_of_workers(config, workers))
        sizes = config, materials.shapes, workers, materials.vocabulary
        with Writer(path, *sizes, "virtual", server.algorithm.z) as writer:
            cluster.run(writer.write_all)
        public = configuration(cell, [], tests=TESTS)
        known = prepare(public, workers)
        _, judge = workers_with_black_box(public, known, everyone, model)
        with Log(path) as log:
            found = [attack(log, v, known, model, box.data_sizes) for v in everyone]
            accuracies = [
                accuracy(judge, v, log.winners[v].words, _shown(log, v, files[v])) for v in everyone
            ]
    means = {name: float(np.mean([each[name] for each in found])) for name in ATTACKS}
    return {**means, "accuracy": float(np.mean(accuracies))}


def _shown(log: Log, worker: int, home: Path) -> IntArray:
    """The demonstrations (U,) of the winner of ``worker``, for its owner to know."""
    shown: IntArray = log.winners[worker].demonstrations
    if not log.config.log.private or (shown == WITHOUT).all():
        return shown
    return next(k.demonstrations for k in read(home).kept if k.choice == shown[0])


def accuracy(judge: Any, worker: int, words: IntArray, shown: IntArray) -> float:
    """Of a prompt on the test rows."""
    rows = np.arange(judge.data_sizes[worker].rows[Split.TEST])
    [answer] = judge.answer([Query(worker, Split.TEST, rows, words[None], shown[None])])
    return float(answer.accuracies[0])


def attack(
    log: Log, worker: int, known: Materials, model: LanguageModel, sizes: dict[int, DataSizes]
) -> dict[str, float]:
    """AUC of each attack on the rows of ``worker``, of "means" on those that steps are made on."""
    assert known.data is not None
    held = known.data[worker]
    trained, validated = held.train, held.validation
    others = held.test[: len(trained) + len(validated)]
    candidates = [*trained, *validated, *others]
    bare = losses_of(candidates, [None], known, model)[0]
    newest = log["report/p"][np.flatnonzero(log["report/worker"] == worker)[-1]]
    learnt = [log.vocabulary[word] for word in newest.argmax(axis=1)]
    generator = np.random.default_rng(0)
    some = [list(generator.choice(log.vocabulary, len(learnt))) for _ in range(16)]
    of_words = losses_of(candidates, [learnt, *some], known, model)
    scores = {
        "rows": nearest(bare, single_losses(log, worker)),
        "means": _by_means(log, worker, sizes, bare),
        "words": of_words[1:].mean(axis=0) - of_words[0],
    }
    members = dict.fromkeys(ATTACKS, len(trained) + len(validated)) | {"means": len(trained)}
    return {name: auc(each[: members[name]], each[-len(others) :]) for name, each in scores.items()}


def losses_of(
    rows: Sequence[Row],
    fragments: Sequence[Sequence[str] | None],
    known: Materials,
    model: LanguageModel,
) -> FloatArray:
    """The loss of each row after each fragment, without demonstrations; (fragments, rows)."""
    template = known.template
    assert template is not None
    prompts = [Prompt("", template.render(row, words)) for words in fragments for row in rows]
    scores = model.label_log_probabilities(prompts, template.labels).log_probabilities
    labels = np.array([row.label for row in rows] * len(fragments))
    losses: FloatArray = -scores[np.arange(len(labels)), labels]
    return losses.reshape(len(fragments), len(rows))


def single_losses(log: Log, worker: int) -> FloatArray:
    """What the log has of single rows of ``worker`` with the bare prompt, in its race."""
    names = "worker", "split", "candidate"
    workers, splits, candidates = (log.rows(f"evaluation/{name}") for name in names)
    own = (workers == worker) & (splits == Split.RACE) & (candidates == Candidate.UNTUNED)
    (rows,) = np.nonzero(own[log.answered])
    losses: FloatArray = log.rows("answer/loss")[rows]
    return losses


def _by_means(log: Log, worker: int, sizes: dict[int, DataSizes], bare: FloatArray) -> FloatArray:
    own = log["report/worker"] == worker
    numbers, means = log["report/seq"][own].tolist(), log["report/loss"][own]
    held, config, shapes = sizes[worker].rows[Split.TRAIN], log.config, log.shapes
    batch = {worker: min(config.estimator.batch, held)}
    draws = Draws(config.run.seed, config.estimator.samples, batch, sizes, lambda drawn: drawn)
    # Rows come behind the samples' draws: M for words and U for demonstrations each.
    of_step = Purpose.UPPER_STEP, (shapes.positions, shapes.classes)
    batches = [draws.for_step([(worker, number)], *of_step)[0][0] for number in numbers]
    found = solved(means, batches, held)
    return nearest(bare, aligned(found - found.mean() + means.mean(), bare))


# ---------------------------------------------------------------- the table


def table(cells: dict[str, dict[str, float]], wanted: Sequence[Cell]) -> str:
    """AUC and accuracy by setting, with 95 % intervals over the seeds (Student's t)."""
    lines = ["| model | iterations | setting | n | AUC rows | means | words | accuracy |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys((c.model, c.iterations, c.setting) for c in wanted):
        found = [
            cells[c.key]
            for c in wanted
            if (c.model, c.iterations, c.setting) == name and c.key in cells
        ]
        if len(found) > 1:
            values = [interval(np.array([each[key] for each in found])) for key in ATTACKS]
            right = interval(100 * np.array([each["accuracy"] for each in found]), 1)
            row = [name[0], str(name[1]), name[2], str(len(found)), *values, right]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def interval(values: FloatArray, digits: int = 3) -> str:
    """The mean and its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


STAND_INS: dict[str, type[Words]] = {"words": Words, "deaf": DeafWords}


def language_model(name: str) -> LanguageModel:
    """The model by its name; it remembers what it was asked."""
    if name in STAND_INS:
        return STAND_INS[name]()
    from asyndbt_mpi.llm.transformers import TransformersModel

    return CachedModel(TransformersModel(name, device="cpu", threads=1), entries=1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="words", help="words, deaf, or a real one")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "cells.jsonl"
    cells: dict[str, dict[str, float]] = {}
    if file.exists():
        cells = dict(json.loads(line) for line in file.read_text().splitlines())
    wanted = [
        Cell(arguments.model, setting, iterations, seed)
        for seed in range(arguments.seeds)
        for iterations in arguments.iterations
        for setting in arguments.settings
    ]
    model = language_model(arguments.model)
    for cell in wanted:
        if cell.key not in cells:
            cells[cell.key] = run(cell, model)
            with file.open("a") as lines:
                lines.write(json.dumps([cell.key, cells[cell.key]]) + "\n")
            print(cell.setting, cell.iterations, cell.seed, cells[cell.key], file=sys.stderr)
    print(f"{describe()}\n\n{table(cells, wanted)}")


if __name__ == "__main__":
    main()
