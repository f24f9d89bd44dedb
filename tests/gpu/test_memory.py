"""The GPU's memory: bounded, and what happens when there is not enough."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.transformers import TransformersModel
from tests.llm.tiny import SEVERAL, SMALL, prompts_of, save

MIB = 2**20


def many(count: int, name: str = "") -> list[Prompt]:
    """Prompts of about 30 tokens each that share a context."""
    return prompts_of(
        ("It is:\n\n", [f"{name} query {n} " + "ab " * (n % 9) for n in range(count)])
    )


def peak(model: TransformersModel, prompts: list[Prompt]) -> int:
    """Bytes that scoring takes on top of what is there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model.label_log_probabilities(prompts, SEVERAL)
    return torch.cuda.max_memory_allocated() - before


def test_the_batch_bounds_memory(load: Callable[..., TransformersModel]) -> None:
    small, large = (load(max_tokens_per_batch=limit) for limit in (1024, 32768))
    prompts = many(800)
    of_small = peak(small, prompts)
    assert 4 * of_small < peak(large, prompts)
    # Twice as many prompts go through the same batches.
    assert peak(small, many(1600)) < 1.5 * of_small + MIB


def test_memory_does_not_grow(load: Callable[..., TransformersModel]) -> None:
    model = load()
    allocated = []
    for turn in range(20):
        model.label_log_probabilities(many(50, name=str(turn)), SEVERAL)
        gc.collect()
        allocated.append(torch.cuda.memory_allocated())
    assert max(allocated[2:]) <= allocated[1]


def test_full_memory_halves_the_batch_and_changes_no_score(
    load: Callable[..., TransformersModel], allow: Callable[[int], None]
) -> None:
    model, prompts = load(max_tokens_per_batch=65536), many(1500)
    expected = model.label_log_probabilities(prompts, SEVERAL).log_probabilities
    allow(48 * MIB)
    with pytest.warns(UserWarning, match=r"out of memory on cuda:0 \(.*\): continuing with"):
        scores = model.label_log_probabilities(prompts, SEVERAL).log_probabilities
    assert 1 <= model.max_tokens_per_batch < 65536
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


def test_a_model_that_does_not_fit_is_told_in_one_line(
    tmp_path: Path, allow: Callable[[int], None]
) -> None:
    config = LlamaConfig(**{**SMALL, "hidden_size": 512, "intermediate_size": 4096})
    place = str(save(tmp_path, config))
    torch.cuda.init()
    allow(0)
    told = r"does not fit into the memory of cuda:0 \(.*\): [\d.]+ of [\d.]+ GiB are free; use"
    with pytest.raises(ModelError, match=told):
        TransformersModel(place, device="cuda:0")
