"""Where scoring spends its time on the CPU: shares of the model's operators, by torch's profiler.

Example: python benchmarks/operators.py

The prompts of scoring.py, fewer of them, with one thread. "Of the peak" is the arithmetic speed in
the body of the model, of the fastest product of two matrices in that precision.
"""

import argparse
import time
from collections import Counter

import torch
from machine import describe
from scoring import CASES, QUERIES, make_prompts, of_preset, operations, peak
from torch.profiler import ProfilerActivity, profile

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.transformers import TransformersModel

SAMPLES = 2
PRODUCTS, ATTENTION, ELEMENTS, COPIES = "products", "attention", "element-wise", "copies"
KINDS = {
    **dict.fromkeys(("mm", "addmm", "bmm", "_linear_pointwise"), PRODUCTS),
    "_scaled_dot_product_flash_attention_for_cpu": ATTENTION,
    "scaled_dot_product_attention": ATTENTION,
    **dict.fromkeys(("mul", "add", "add_", "silu", "pow", "mean", "rsqrt", "neg", "sum"), ELEMENTS),
    **dict.fromkeys(("cat", "copy_", "index", "clone", "index_select"), COPIES),
}
"""By the operator's name without its namespace."""


def shares(model: TransformersModel, prompts: list[Prompt], labels: list[str]) -> Counter[str]:
    """Microseconds by kind of operator."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        model.label_log_probabilities(prompts, labels)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        kind = KINDS.get(event.key.rpartition("::")[2], "rest")
        spent[kind] += event.self_cpu_time_total
    return spent


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    print(f"{describe()}, torch {torch.__version__}, one thread\n")
    columns = (PRODUCTS, ATTENTION, ELEMENTS, COPIES, "rest")
    print(f"{'M, template':14}{'':>10}{'of peak':>9}" + "".join(f"{kind:>14}" for kind in columns))
    for preset, positions in CASES:
        config = of_preset(preset, "")
        prompts, labels = make_prompts(config, positions)
        prompts = prompts[: SAMPLES * QUERIES]
        for precision in ("float32", "bfloat16"):
            model = TransformersModel(config.llm.model, device="cpu", precision=precision)
            model.label_log_probabilities(prompts, labels)  # checks itself
            started = time.process_time()
            scores = model.label_log_probabilities(prompts, labels)
            seconds = time.process_time() - started
            speed = operations(model._network.base_model) * scores.prompt_tokens / seconds
            spent = shares(model, prompts, labels)
            row = "".join(f"{spent[kind] / spent.total():14.0%}" for kind in columns)
            name = f"{positions}, {preset}"
            print(f"{name:14}{precision:>10}{speed / peak(precision):9.0%}{row}", flush=True)


if __name__ == "__main__":
    main()
