"""Prompts scored per second, against the loop that most research code uses.

Example: python benchmarks/scoring.py

Every row of the table scores the same prompts: 8 samples of a fragment of M words and of one
demonstration for each class, each with the same 20 queries, by SmolLM2-135M on two threads. The
naive loop gives the model whole prompts, padded, one batch for each sample, and takes the labels
from the logits of all positions, as the code of BDPL (Diao et al., TMLR 2023) does. The package
reads what the queries of a sample share once, packs the rest side by side and multiplies by the
labels' rows of the output matrix alone.

Tokens/s counts the tokens of the whole prompts, however many of them were read. The share of the
peak is that of the arithmetic of the tokens that were read, against the fastest product of two
matrices seen in the same run and precision. "Tree" is what would be left to read if every
prefix that two prompts have in common were read once. Rows are timed in turns; the medians are
shown. The naive loop scores only the first sample, whose answers are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from machine import describe

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.llm.checkpoint import load as load_checkpoint
from asyndbt_mpi.llm.transformers import TransformersModel
from asyndbt_mpi.task.dataset import load as load_dataset
from asyndbt_mpi.task.template import Template
from asyndbt_mpi.task.vocabulary import load_vocabulary

SAMPLES = 8
QUERIES = 20
CASES = [("sst2", 10), ("sst2", 75), ("reviews", 75)]
"""Preset of the template, and M. With that of `sst2` the fragment stands before a review and is
shared by the queries, with that of `reviews` behind it."""
TOLERANCE = 1e-4
"""How far a float32 log-probability may be from the naive loop's."""


@dataclass
class Row:
    """One way to score; ``run`` scores the prompts of the first ``samples`` and says how."""

    name: str
    precision: str
    samples: int
    run: Callable[[list[Prompt]], tuple[FloatArray, int]]
    seconds: list[float] = field(default_factory=list)
    answers: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    tokens_read: int = 0


class Naive:
    """Whole prompts, padded, and the logits of every position."""

    def __init__(self, model: str, labels: list[str]) -> None:
        self.network, self.tokenizer = load_checkpoint(model, torch.float32)
        self.network.eval()
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        encoded = [self.tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        if any(len(tokens) > 1 for tokens in encoded):
            raise SystemExit("scoring.py: the naive loop knows only labels of one token")
        self.labels = [tokens[0] for tokens in encoded]

    @torch.inference_mode()
    def __call__(self, prompts: list[Prompt]) -> tuple[FloatArray, int]:
        """Log-probabilities of the labels (P, U), and the tokens read, pads included."""
        found, read = [], 0
        for start in range(0, len(prompts), QUERIES):
            texts = [prompt.context + prompt.query for prompt in prompts[start : start + QUERIES]]
            batch = self.tokenizer(texts, return_tensors="pt", padding=True)
            logits = self.network(**batch).logits
            last = batch["attention_mask"].sum(dim=1) - 1
            of_labels = logits[torch.arange(len(texts)), last][:, self.labels]
            found.append(of_labels.log_softmax(-1).double().numpy())
            read += batch["input_ids"].numel()
        return np.concatenate(found), read

    def count(self, prompts: list[Prompt]) -> tuple[int, int]:
        """Tokens of the whole prompts, and of the tree of their prefixes."""
        texts = [prompt.context + prompt.query for prompt in prompts]
        sequences = self.tokenizer(texts)["input_ids"]
        prefixes = {tuple(tokens[:n]) for tokens in sequences for n in range(1, len(tokens) + 1)}
        return sum(map(len, sequences)), len(prefixes)


def by_package(model: LanguageModel, labels: list[str]) -> Callable[..., tuple[FloatArray, int]]:
    """The package's way to score, as `Row.run`."""

    def run(prompts: list[Prompt]) -> tuple[FloatArray, int]:
        scores = model.label_log_probabilities(prompts, labels)
        return scores.log_probabilities, scores.prompt_tokens

    return run


def of_preset(preset: str, folder: str) -> Config:
    """The preset, on the data in ``folder`` or on those that ship with the package."""
    reviews = load("reviews").task
    data = [f"task.path={folder}"] if folder else [f"task.name={reviews.name}"]
    return load(preset, [*data, "prompt.vocabulary=reviews"])


def make_prompts(config: Config, positions: int) -> tuple[list[Prompt], list[str]]:
    """`SAMPLES` random fragments and pairs of demonstrations, each with the same queries."""
    template = Template(config.task.template, config.task.label_texts)
    data = load_dataset(config.task, template.columns, config.run.seed)
    vocabulary = load_vocabulary(config.prompt.vocabulary, config.prompt.vocabulary_size)
    generator = np.random.default_rng(0)
    queries = [data.dev[n] for n in generator.permutation(len(data.dev))[:QUERIES]]
    of_class = [[r for r in data.train if r.label == u] for u in range(len(template.labels))]
    prompts = []
    for _ in range(SAMPLES):
        words = [vocabulary[n] for n in generator.integers(len(vocabulary), size=positions)]
        shown = [rows[generator.integers(len(rows))] for rows in of_class]
        context = template.context(shown, words)
        prompts += [Prompt(context, template.render(row, words)) for row in queries]
    return prompts, template.labels


def peak(precision: str) -> float:
    """The most GFLOP/s that products of matrices of the model's kind reached."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    best = 0.0
    for rows, inner, columns in ((512, 576, 1536), (512, 1536, 576), (1024, 1024, 1024)):
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        for _ in range(20):
            started = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2e-9 * rows * inner * columns / (time.perf_counter() - started))
    return best


def operations(body: torch.nn.Module) -> float:
    """GFLOP that a token takes in the body's products of matrices."""
    weights = [
        module.weight.numel() for module in body.modules() if isinstance(module, torch.nn.Linear)
    ]
    return 2e-9 * sum(weights)


def accuracy(models: dict[str, LanguageModel], config: Config) -> None:
    """Print how right each precision is on all development rows, and how far from float32."""
    template = Template(config.task.template, config.task.label_texts)
    data = load_dataset(config.task, template.columns, config.run.seed)
    labels = np.array([row.label for row in data.dev])
    first = [next(r for r in data.train if r.label == u) for u in range(len(template.labels))]
    print(f"accuracy on {len(labels)} rows")
    for name, shown in (("no demonstrations", []), ("one of each class", first)):
        context = template.context(shown, None)
        prompts = [Prompt(context, template.render(row, None)) for row in data.dev]
        reference: FloatArray | None = None
        for precision, model in models.items():
            found = model.label_log_probabilities(prompts, template.labels).log_probabilities
            reference = found if reference is None else reference
            right = float((found.argmax(axis=1) == labels).mean())
            change = float(np.abs(found - reference).mean())
            print(f"  {name:20}{precision:10}{right:8.2%}   mean |change| {change:.3f}")


def measure(rows: list[Row], prompts: list[Prompt], repeats: int) -> None:
    """Time the rows in turns."""
    for _ in range(repeats):
        for row in rows:
            own = prompts[: row.samples * QUERIES]
            started = time.perf_counter()
            row.answers, row.tokens_read = row.run(own)
            row.seconds.append(time.perf_counter() - started)


def show(rows: list[Row], naive: Naive, prompts: list[Prompt]) -> None:
    """Print the table of one M, and whether float32 gives the naive loop's answers."""
    flop, peaks = (
        operations(naive.network.base_model),
        {p: peak(p) for p in {row.precision for row in rows}},
    )
    naive_row = rows[0]
    rate = {row.name: row.samples * QUERIES / statistics.median(row.seconds) for row in rows}
    print(
        f"  {'':22}{'prompts/s':>10}{'ratio':>7}{'tokens/s':>10}{'read':>7}{'tree':>7}"
        f"{'of peak':>9}{'mean |change|':>15}{'largest':>9}"
    )
    for row in rows:
        own = prompts[: row.samples * QUERIES]
        seconds = statistics.median(row.seconds)
        whole, tree = naive.count(own)
        share = flop * row.tokens_read / seconds / peaks[row.precision]
        change = np.abs(row.answers[: len(naive_row.answers)] - naive_row.answers)
        print(
            f"  {row.name:22}{rate[row.name]:10.1f}{rate[row.name] / rate[naive_row.name]:7.2f}"
            f"{whole / seconds:10.0f}{row.tokens_read / whole:7.0%}{tree / whole:7.0%}{share:9.0%}"
            f"{change.mean():15.2g}{change.max():9.2g}"
        )
        if row.precision == "float32" and change.max() > TOLERANCE:
            raise SystemExit(f"scoring.py: {row.name} differs by {change.max():.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", default="", help="folder with train.jsonl and dev.jsonl")
    arguments = parser.parse_args()
    configs = {preset: of_preset(preset, arguments.data) for preset, _ in CASES}
    model_name = configs[CASES[0][0]].llm.model
    torch.set_num_threads(arguments.threads)
    print(f"{describe()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    models: dict[str, LanguageModel] = {
        precision: TransformersModel(model_name, device="cpu", precision=precision)
        for precision in ("float32", "bfloat16")
    }
    accuracy(models, configs[CASES[0][0]])
    for preset, positions in CASES:
        prompts, labels = make_prompts(configs[preset], positions)
        naive = Naive(model_name, labels)
        rows = [Row("naive loop", "float32", 1, naive)]
        for precision, model in models.items():
            rows.append(Row(f"package, {precision}", precision, SAMPLES, by_package(model, labels)))
        for model in models.values():  # which compare their ways at the first long prompts
            longest = max(range(SAMPLES), key=lambda n: len(prompts[n * QUERIES].context))
            model.label_log_probabilities(prompts[longest * QUERIES :][:QUERIES], labels)
        measure(rows, prompts, arguments.repeats)
        print(f"M = {positions}, template of {preset!r}, {len(prompts)} prompts")
        show(rows, naive, prompts)


if __name__ == "__main__":
    main()
