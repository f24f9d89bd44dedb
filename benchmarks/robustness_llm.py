"""What malicious workers do to the honest ones with a language model: test accuracy.

Example: python benchmarks/robustness_llm.py -o runs/robustness_llm --seeds 5
             --sst2 /data/glue/SST-2

SmolLM2-135M-Instruct on reviews and SST-2; seven workers of which some attack, everything else as
for language models by default (words learnt together). Of the honest workers it shows the accuracy
on the test rows, with the prompts that they end with and with the consensus' words, and the loss,
each the mean over workers, rows and seeds, and what changes under the same seed. Logs and the
model's answers are kept in the folder: finished runs are not made again, and no prompt is scored
twice.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from machine import describe
from scipy import stats

import asyndbt_mpi as adbt
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.messages import Candidate
from asyndbt_mpi.view.outcomes import outcomes

WORKERS = 7
TOLERATED = 2
"""By default, of so many workers."""
ATTACKS = {"none": 0.0, "sign_flip": 10.0, "label_flip": 0.0, "bad_demonstrations": 0.0}
"""By name, the strength."""
DEFENCES = {
    "undefended": ("defence.aggregator=rsa", "algorithm.robust_weight=0"),
    "default": (),
}
SETTINGS = (
    *("run.iterations=16", "run.evaluate_every=8", "run.race=0", "algorithm.active_workers=4"),
    *("algorithm.max_delay=6", "algorithm.plane_period=4", "delay.model=lognormal"),
    *("delay.mean=1", "estimator.samples=4", "estimator.batch=2", "prompt.fragment_length=2"),
    *("prompt.vocabulary=reviews", "prompt.vocabulary_size=8", "prompt.pool=6"),
    *("task.train_per_class=8", "task.validation_per_class=4", "task.test=24"),
    *("llm.model=smollm2-135m-instruct", "llm.precision=bfloat16"),
)
COLUMNS = {
    "own prompts": (Candidate.TUNED, "accuracies", 100.0),
    "consensus' words": (Candidate.CONSENSUS, "accuracies", 100.0),
    "loss, own": (Candidate.TUNED, "losses", 1.0),
    "loss, consensus": (Candidate.CONSENSUS, "losses", 1.0),
}
"""The prompt, what of its tests, and the unit."""


def run(
    folder: Path, task: tuple[str, ...], malicious: int, attack: str, defence: str, seed: int
) -> Path:
    """The log of a finished run, made if it is not there.

    If more attack than are tolerated by default, the defence is told of them.
    """
    name, *of_task = task
    is_told = defence == "default" and malicious > TOLERATED
    path = folder / f"{name}-{attack}-{defence}-{seed}.h5"
    if malicious != TOLERATED and (attack != "none" or is_told):
        path = path.with_stem(f"{path.stem}-of-{malicious}")
    settings = [*SETTINGS, *of_task, *DEFENCES[defence], f"run.seed={seed}"]
    settings.append(f"llm.cache_folder={folder / 'answers'}")
    if attack != "none":
        settings += [f"adversary.workers={malicious}", f"adversary.attack={attack}"]
        settings.append(f"adversary.strength={ATTACKS[attack]}")
    if is_told:
        settings.append(f"defence.malicious={malicious / WORKERS}")
    if path.exists():
        with Log(path) as log:
            if log.status == "finished":
                return path
    adbt.simulate(adbt.load(name, settings), WORKERS, path, resume=path.exists())
    return path


def measured(path: Path, malicious: int) -> list[float]:
    """Of all but the last ``malicious`` workers of a log, by `COLUMNS`."""
    with Log(path) as log:
        found = outcomes(log)
    honest = range(1, WORKERS - malicious + 1)
    return [
        unit * float(np.mean([getattr(found[prompt], what)[worker] for worker in honest]))
        for prompt, what, unit in COLUMNS.values()
    ]


def rows(found: dict[tuple[str, str, str, str], list[list[float]]]) -> Iterator[str]:
    """The table as Markdown: means over seeds, and differences to the same workers unattacked.

    Seeds differ more than attacks do, so differences are of runs under the same seed.
    """
    yield f"| task | malicious | attack | defence | {' | '.join(COLUMNS)} |"
    yield f"| --- | --- | --- | --- |{' --- |' * len(COLUMNS)}"
    for key, of_seeds in found.items():
        reference = found[*key[:2], "none", "undefended"]
        cells = []
        for column, (_, _, unit) in enumerate(COLUMNS.values()):
            values, of_reference = (
                np.array([each[column] for each in runs]) for runs in (of_seeds, reference)
            )
            digits = 1 if unit > 1 else 3
            cell = f"{values.mean():.{digits}f}"
            if of_seeds is not reference:
                changes = values - of_reference
                cell += f" ({changes.mean():+.{digits}f}{half(changes, digits)})"
            cells.append(cell)
        yield f"| {' | '.join(key)} | {' | '.join(cells)} |"


def half(values: np.ndarray, digits: int) -> str:
    """Half of Student's 95 % interval of the mean of ``values``; nothing of a single one."""
    if len(values) < 2:
        return ""
    return f" ± {stats.t.ppf(0.975, len(values) - 1) * stats.sem(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/robustness_llm"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--malicious", type=int, nargs="+", default=[TOLERATED])
    parser.add_argument("--sst2", metavar="FOLDER", help="SST-2 of GLUE; without it reviews alone")
    attacks = list(ATTACKS)[1:]
    parser.add_argument("--attacks", nargs="+", default=attacks, choices=attacks, help="and none")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    tasks: list[tuple[str, ...]] = [("reviews",)]
    if chosen.sst2:
        tasks.append(("sst2", f"task.path={chosen.sst2}"))
    found: dict[tuple[str, str, str, str], list[list[float]]] = {}
    for seed, task, malicious, attack, defence in product(
        range(chosen.seeds), tasks, chosen.malicious, ["none", *chosen.attacks], DEFENCES
    ):
        path = run(chosen.output, task, malicious, attack, defence, seed)
        key = task[0], f"{malicious} of {WORKERS}", attack, defence
        found.setdefault(key, []).append(measured(path, malicious))
        print(path, malicious, *(f"{value:.3f}" for value in found[key][-1]), flush=True)
    print(f"\n{describe()}; means of the honest workers and {chosen.seeds} seeds")
    print("(differences to the same workers, nobody attacking and undefended, 95 % intervals)")
    print("accuracy in %\n")
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
