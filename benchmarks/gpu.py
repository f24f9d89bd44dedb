"""Scoring on a GPU: tokens per second, share of the peak and memory, alone and with four ranks.

Example: python benchmarks/gpu.py --sizes 1 8

Models have random weights, and the architecture of Llama with about so many thousand million
parameters: nothing is downloaded, and no speed depends on the weights. The prompts are those of
scoring.py, with 75 words of a fragment. Rows of the table differ in `llm.max_tokens_per_batch` and
in whether the network is compiled; then several processes share the GPU, as several workers do.
The peak is the fastest product of two matrices seen in the same run. Takes a few minutes;
``--device cpu --sizes 0`` tries the script itself, on a tiny model.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import describe
from scoring import make_prompts, of_preset, operations
from transformers import AutoModelForCausalLM, LlamaConfig

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.checkpoint import load as load_checkpoint
from asyndbt_mpi.llm.transformers import TransformersModel

SIZES = {
    0: LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                   num_attention_heads=4, num_key_value_heads=2),
    1: LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                   num_attention_heads=32, num_key_value_heads=8),
    8: LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                   num_attention_heads=32, num_key_value_heads=8),
}  # fmt: skip
"""By thousand million parameters; 0 is tiny."""
BATCHES = 4096, 16384, 65536
POSITIONS = 75
REPEATS = 5
PRECISION = "bfloat16"


def save(size: int, folder: Path, device: str) -> None:
    """Write a model of random weights to ``folder``, with the tokenizer of the shipped model."""
    config, preset = SIZES[size], of_preset("sst2", "")
    _, tokenizer = load_checkpoint(preset.llm.model, torch.float32)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 8192
    any_model: Any = AutoModelForCausalLM  # its methods have no types
    with torch.device(device):
        network = any_model.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def peak(device: str) -> float:
    """The most TFLOP/s of a product of two matrices."""
    side = 8192 if device == "cuda" else 512
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    return max(2e-12 * side**3 / seconds for seconds in timed(lambda: torch.mm(a, b), device))


def timed(run: Any, device: str) -> Iterator[float]:
    """Seconds of each of `REPEATS` calls, after one that is not counted."""
    for repeat in range(REPEATS + 1):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat:
            yield time.perf_counter() - started


def loaded(folder: Path, device: str, batch: int = BATCHES[0]) -> TransformersModel:
    """The model in ``folder``."""
    return TransformersModel(
        str(folder), device=device, precision=PRECISION, max_tokens_per_batch=batch
    )


def table(folder: Path, device: str, prompts: list[Prompt], labels: list[str]) -> None:
    """Print a line for each batch, and for the compiled network with the largest."""
    best = peak(device)
    print(f"peak {best:.1f} TFLOP/s\n")
    print("| tokens in a batch | network | prompts/s | tokens read/s | of peak | GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch, compiled in [*((batch, False) for batch in BATCHES), (BATCHES[-1], True)]:
        model = loaded(folder, device, batch)
        network: Any = model._network
        work = operations(network.base_model) * 1e-3
        if compiled:
            network.forward = torch.compile(network.forward, dynamic=True)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        read = model.label_log_probabilities(prompts, labels).prompt_tokens
        taken = timed(lambda model=model: model.label_log_probabilities(prompts, labels), device)
        seconds = statistics.median(taken)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
        print(
            f"| {batch:,} | {'compiled' if compiled else 'as it is'} |"
            f" {len(prompts) / seconds:,.1f} | {read / seconds:,.0f} |"
            f" {work * read / seconds / best:.0%} | {memory:.1f} |",
            flush=True,
        )
        del model, network
        if device == "cuda":
            torch.cuda.empty_cache()


def rank(
    folder: Path, device: str, prompts: list[Prompt], labels: list[str], together: Any, rates: Any
) -> None:
    """One of several processes that score at the same time: puts its prompts/s into ``rates``."""
    model = loaded(folder, device)
    model.label_log_probabilities(prompts, labels)
    together.wait()
    started = time.perf_counter()
    for _ in range(REPEATS):
        model.label_log_probabilities(prompts, labels)
    rates.put(REPEATS * len(prompts) / (time.perf_counter() - started))


def share(folder: Path, device: str, prompts: list[Prompt], labels: list[str], ranks: int) -> float:
    """Prompts/s of ``ranks`` processes on one GPU, together."""
    context = multiprocessing.get_context("spawn")
    together, rates = context.Barrier(ranks), context.Queue()
    given = folder, device, prompts, labels, together, rates
    processes = [context.Process(target=rank, args=given) for _ in range(ranks)]
    for process in processes:
        process.start()
    total = sum(float(rates.get(timeout=300)) for _ in processes)
    for process in processes:
        process.join()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], choices=list(SIZES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"no GPU: torch {torch.__version__} sees no CUDA device")
    gpu = torch.cuda.get_device_name() if chosen.device == "cuda" else "no GPU"
    print(f"{describe()}, {gpu}, torch {torch.__version__}, {PRECISION}")
    prompts, labels = make_prompts(of_preset("sst2", ""), POSITIONS)
    for size in chosen.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(size, folder, chosen.device)
            print(f"\n## Llama, {size} thousand million parameters, {len(prompts)} prompts\n")
            table(folder, chosen.device, prompts, labels)
            for ranks in chosen.ranks:
                rate = share(folder, chosen.device, prompts, labels, ranks)
                print(
                    f"\n{ranks} rank(s) on one device: {rate:,.1f} prompts/s together", flush=True
                )


if __name__ == "__main__":
    main()
