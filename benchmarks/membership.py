"""Is this text in a worker's data? What its own reports over a run tell of that.

Example: python benchmarks/membership.py -o runs/membership --seeds 10

The attacker is a curious rank 0: it has the log of a run, the seed, the template, the words and the
model, and asks of each candidate, a text with its label, whether it is one of the rows of a
worker. Half of the candidates are, the others are test rows. It tries five ways:

    rows     the loss of the candidate, without words and demonstrations, is one of the losses of
             single rows in the worker's race
    means    the mean losses of the reports are those of rows that the candidate is one of: the seed
             and p give the batches and half of the words, for the others the most probable ones are
             taken, and the losses of the candidate with these words are worked out, without
             demonstrations
    words    the words that the worker has learnt lower the loss of the candidate more than others
             do
    samples  as means, with the losses of all samples and all of their words. With log.private these
             losses are not told, but p moves by them; this attacker is taken to have found them
             (see membership_steps.Overheard)
    lengths  the tokens of the steps are solved for the length of each training row, which is that
             of the candidate. Which demonstrations were shown is known as in "samples"

Each gives a score, by which the area under the ROC curve (AUC) is that of the candidates: 0.5 is
guessing, 1 is certainty. A cell is one run under one setting and seed. What an attack finds is a
lower bound of what there is to be found; these use no times, and no more than one of losses and
tokens.
Finished cells are kept in the folder's cells.jsonl, and not made again unless they lack an attack.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from membership_attacks import alike, auc, lengths, nearest, shares, taken
from membership_models import language_model
from membership_steps import Overheard, Step, drawn
from scipy import stats

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.assemble import Materials, delays_of_workers, prepare, workers_with_black_box
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.log.home import HomeFiles, read
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.protocol.blackbox import DataSizes, Query
from asyndbt_mpi.protocol.messages import WITHOUT, Candidate, Split
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
ATTACKS = ("rows", "means", "words", "samples", "lengths")


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
        machines.gradients = heard = Overheard(machines)
        server = Server(config, materials.shapes, workers)
        cluster = VirtualCluster(server, machines, box, delays_of_workers(config, workers))
        sizes = config, materials.shapes, workers, materials.vocabulary
        with Writer(path, *sizes, "virtual", server.algorithm.z) as writer:
            cluster.run(writer.write_all)
        public = configuration(cell, [], tests=TESTS)
        known = prepare(public, workers)
        _, judge = workers_with_black_box(public, known, everyone, model)
        with Log(path) as log:
            attacked = known, model, box.data_sizes
            found = [attack(log, heard.steps, v, *attacked) for v in everyone]
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
    log: Log,
    steps: Sequence[Step],
    worker: int,
    known: Materials,
    model: LanguageModel,
    sizes: dict[int, DataSizes],
) -> dict[str, float]:
    """AUC of each attack on the rows of ``worker``, of the last two and "means" on training rows.

    Their order is that of their labels, so that the label of each is known.
    """
    trained, validated, others = parts_of(known, worker)
    candidates, labels = [*trained, *validated, *others], [row.label for row in trained]
    own = [step for step in steps if step.worker == worker]
    generator = np.random.default_rng([log.seed, worker])
    asked = labels, candidates, known, model
    scores = {
        "rows": nearest(losses_of(candidates, [None], known, model)[0], single_losses(log, worker)),
        "means": _by_means(log, worker, sizes, *asked, generator),
        "words": _by_words(log, worker, candidates, known, model),
        "samples": _by_samples(own, *asked, generator),
        "lengths": _by_lengths(own, *asked),
    }
    every = dict.fromkeys(("rows", "words"), len(trained) + len(validated))
    return {
        name: auc(each[: every.get(name, len(trained))], each[-len(others) :])
        for name, each in scores.items()
    }


def parts_of(known: Materials, worker: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Training and validation rows of ``worker``, and as many others."""
    assert known.data is not None
    held = known.data[worker]
    return held.train, held.validation, held.test[: len(held.train) + len(held.validation)]


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


def _by_words(
    log: Log, worker: int, candidates: Sequence[Row], known: Materials, model: LanguageModel
) -> FloatArray:
    newest = log["report/p"][np.flatnonzero(log["report/worker"] == worker)[-1]]
    learnt = [log.vocabulary[word] for word in newest.argmax(axis=1)]
    generator = np.random.default_rng(0)
    some = [list(generator.choice(log.vocabulary, len(learnt))) for _ in range(16)]
    of_words = losses_of(candidates, [learnt, *some], known, model)
    lowered: FloatArray = of_words[1:].mean(axis=0) - of_words[0]
    return lowered


def _by_means(
    log: Log,
    worker: int,
    sizes: dict[int, DataSizes],
    labels: Sequence[int],
    candidates: Sequence[Row],
    known: Materials,
    model: LanguageModel,
    generator: np.random.Generator,
) -> FloatArray:
    batches, words, _ = drawn(log, worker, sizes)
    predicted = _predicted(words, candidates, known, model).mean(axis=1)
    share, allowed = shares(batches, len(labels)), _allowed(labels, candidates)
    means = log["report/loss"][log["report/worker"] == worker]
    return taken(means, share, predicted, allowed, generator)


def _by_samples(
    steps: Sequence[Step],
    labels: Sequence[int],
    candidates: Sequence[Row],
    known: Materials,
    model: LanguageModel,
    generator: np.random.Generator,
) -> FloatArray:
    words = np.array([step.words for step in steps])
    predicted = _predicted(words, candidates, known, model).reshape(-1, len(candidates))
    share = shares([step.rows for step in steps for _ in step.losses], len(labels))
    losses = np.concatenate([step.losses for step in steps])
    return taken(losses, share, predicted, _allowed(labels, candidates), generator)


def _predicted(
    words: IntArray, candidates: Sequence[Row], known: Materials, model: LanguageModel
) -> FloatArray:
    """The loss of each candidate with each of ``words`` (n, I, M), (n, I, candidates)."""
    fragments, which = np.unique(words.reshape(-1, words.shape[-1]), axis=0, return_inverse=True)
    in_texts = [[known.vocabulary[word] for word in fragment] for fragment in fragments]
    losses = losses_of(candidates, in_texts, known, model)[which.ravel()]
    return losses.reshape(*words.shape[:2], -1)


def _allowed(labels: Sequence[int], candidates: Sequence[Row]) -> BoolArray:
    """Which candidates have the label of each row, (rows, candidates)."""
    allowed: BoolArray = np.array(labels)[:, None] == [row.label for row in candidates]
    return allowed


def _by_lengths(
    steps: Sequence[Step],
    labels: Sequence[int],
    candidates: Sequence[Row],
    known: Materials,
    model: LanguageModel,
) -> FloatArray:
    template = known.template
    assert template is not None
    nothing = model.longest("")
    long = [model.longest(template.render(row, None)) - nothing for row in candidates]
    of_words = np.array([model.longest(word) - nothing for word in known.vocabulary])
    paid = [step for step in steps if step.tokens is not None]
    sizes = len(labels), len(template.labels)
    found = lengths(paid, of_words, sizes, float(np.mean(long)))
    rows = zip(labels, np.rint(found).astype(int).tolist(), strict=True)
    return alike(list(rows), [(row.label, n) for row, n in zip(candidates, long, strict=True)])


# ---------------------------------------------------------------- the table


def table(cells: dict[str, dict[str, float]], wanted: Sequence[Cell]) -> str:
    """AUC and accuracy by setting, with 95 % intervals over the seeds (Student's t)."""
    head = ["model", "iterations", "setting", "n", f"AUC {ATTACKS[0]}", *ATTACKS[1:], "accuracy"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
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
        lines = map(json.loads, file.read_text().splitlines())
        cells = {key: found for key, found in lines if found.keys() >= {*ATTACKS, "accuracy"}}
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
            with file.open("a") as cells_file:
                cells_file.write(json.dumps([cell.key, cells[cell.key]]) + "\n")
            print(cell.setting, cell.iterations, cell.seed, cells[cell.key], file=sys.stderr)
    print(f"{describe()}\n\n{table(cells, wanted)}")


if __name__ == "__main__":
    main()
