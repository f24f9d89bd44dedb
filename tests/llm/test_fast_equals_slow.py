"""What a model does about passes that would be wrong."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, GPTNeoConfig, LlamaConfig

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.local.labels import normalised
from asyndbt_mpi.llm.transformers import NOTHING, TransformersModel
from tests.llm.naive import naive
from tests.llm.tiny import (
    BLOOM,
    GPT_NEO,
    LONG,
    LONGROPE,
    MAMBA,
    NESTED,
    PROMPTS,
    SEVERAL,
    SMALL,
    save,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(folder: Path, config: Any, **options: Any) -> TransformersModel:
    return TransformersModel(str(save(folder, config, spread=0.25)), device="cpu", **options)


def counted(model: TransformersModel, patch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the whole texts that are read from now on, to compare."""
    read: list[int] = []
    whole = model._plain.whole

    def noted(prompt: list[int], labels: Any) -> list[float]:
        read.append(len(prompt))
        return whole(prompt, labels)

    patch.setattr(model._plain, "whole", noted)
    return read


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (GPT_NEO, "a shared context changes its log-probabilities"),
        (BLOOM, r"it cannot share contexts \(\w+\)"),
        (MAMBA, "it has layers of linear_attention"),
        (LONGROPE, "its rotary positions depend on the longest prompt of a pass"),
    ],
    ids=["local attention", "no masks of ours", "no keys and values", "moving rotations"],
)
@pytest.mark.parametrize("labels", [SEVERAL, NESTED], ids=["several", "nested"])
def test_prompts_are_read_by_themselves_where_sharing_is_wrong(
    tmp_path: Path, config: Any, why: str, labels: list[str]
) -> None:
    config.window_size = 64
    model = load(tmp_path, config)
    told = rf"every prompt is read separately, because ({why}); this is correct, but reads \d+\.\d times as"
    with pytest.warns(UserWarning, match=told):
        scores = model.label_log_probabilities(LONG, labels)
    np.testing.assert_allclose(
        scores.log_probabilities, naive(model, LONG, labels), atol=1e-5, rtol=1e-6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = model.label_log_probabilities(PROMPTS["groups"], labels)
    expected = naive(model, PROMPTS["groups"], labels)
    np.testing.assert_allclose(again.log_probabilities, expected, atol=1e-5, rtol=1e-6)
    alone = [model.label_log_probabilities([prompt], labels).prompt_tokens for prompt in LONG]
    for prompt, tokens in zip(LONG, alone, strict=True):
        assert tokens <= model.longest(prompt.context + prompt.query)
    assert scores.prompt_tokens == sum(alone)


def test_a_window_is_noticed_as_soon_as_a_pass_is_wider(tmp_path: Path) -> None:
    GPT_NEO.window_size = 150
    model = load(tmp_path, GPT_NEO)
    assert model._packed is not None
    short = model.label_log_probabilities(PROMPTS["one"], SEVERAL).log_probabilities
    np.testing.assert_allclose(short, naive(model, PROMPTS["one"], SEVERAL), atol=1e-5, rtol=1e-6)
    assert model._packed is not None
    expected = naive(model, LONG, SEVERAL)
    for number in range(1, len(LONG)):  # one by one wider
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = model.label_log_probabilities(LONG[:number], SEVERAL).log_probabilities
        np.testing.assert_allclose(found, expected[:number], atol=1e-3, rtol=0)
    assert model._packed is None


def test_only_what_is_wider_longer_or_deeper_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, LlamaConfig(**SMALL))
    read = counted(model, monkeypatch)
    model.label_log_probabilities(LONG, SEVERAL)
    assert read  # at most two prompts, with three labels each
    assert len(read) <= 6
    assert max(read) == max(
        len(each) for each in model._tokens([p.context + p.query for p in LONG])
    )
    read.clear()
    model.label_log_probabilities(LONG, SEVERAL)
    model.label_log_probabilities(LONG[:5], SEVERAL)
    assert read == []
    model.label_log_probabilities(PROMPTS["one"], [" good", " good and by far longer than others"])
    assert read


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rounding_is_no_reason_to_read_by_itself(tmp_path: Path, precision: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(tmp_path, LlamaConfig(**SMALL), precision=precision)
        model.label_log_probabilities(LONG, SEVERAL)
    assert model._packed is not None


@pytest.mark.parametrize(
    ("precision", "tokens", "bound"),
    [("float32", 1, 1e-3), ("float32", 3, 1.7e-3), ("bfloat16", 1, 0.5), ("bfloat16", 3, 0.86)],
)
def test_the_rounding_that_is_allowed_grows_with_the_tokens_of_a_label(
    tmp_path: Path, precision: str, tokens: int, bound: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(tmp_path, LlamaConfig(**SMALL), precision=precision)
    prompt, labels = [3, 1, 4, 1, 5], [[8], [5, 3, 7][:tokens]]
    right = model._whole_texts([prompt], labels)
    for error in (-9.0, -2.0, -1.2, -0.3, -1.5e-3, 0.0, 5e-4, 0.2, 0.6, 1.4, 9.0):
        scores = normalised(right + np.array([[0.0, error]]))
        model._compared = NOTHING
        expected = np.abs(scores - right).max() <= bound
        assert model._is_right(scores, [prompt], labels) == expected


def test_a_pass_that_is_too_wide_for_the_network(tmp_path: Path) -> None:
    narrow = GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=200,
        attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    model = load(tmp_path, narrow)
    with pytest.warns(UserWarning, match=r"it cannot share contexts \(RuntimeError\)"):
        found = model.label_log_probabilities(LONG, SEVERAL).log_probabilities
    np.testing.assert_allclose(found, naive(model, LONG, SEVERAL), atol=1e-5, rtol=1e-6)


def test_the_shortest_prompt_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, LlamaConfig(**SMALL))
    model.label_log_probabilities(LONG, SEVERAL)
    read = counted(model, monkeypatch)
    short = PROMPTS["one"]
    model.label_log_probabilities([*LONG, *short], SEVERAL)
    assert min(read) == len(model._tokens([short[0].query])[0])


def test_a_precision_in_which_the_model_has_no_finite_numbers(tmp_path: Path) -> None:
    config = Gemma3TextConfig(**SMALL)
    folder = save(tmp_path, config, spread=30.0)
    with pytest.raises(ModelError, match=r"not finite in float16; use another llm\.precision"):
        TransformersModel(str(folder), device="cpu", precision="float16")


def test_answers_that_are_not_the_same_twice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, LlamaConfig(**SMALL))
    predicted: Callable[..., torch.Tensor] = model._plain._predicted
    noise = torch.Generator().manual_seed(0)

    def unsteady(*arguments: Any) -> torch.Tensor:
        found = predicted(*arguments)
        return found + torch.randn(found.shape, generator=noise)

    monkeypatch.setattr(model._plain, "_predicted", unsteady)
    with pytest.raises(ModelError, match="or is not reproducible"):
        model.label_log_probabilities(LONG, SEVERAL)


def test_a_template_that_ends_in_a_space_is_told_once(tmp_path: Path) -> None:
    model = load(tmp_path, LlamaConfig(**SMALL))
    prompts = [type(p)(p.context, p.query + " ") for p in PROMPTS["groups"]]
    labels = ["good", "bad"]
    with pytest.warns(UserWarning, match=r"one token .* which ends in ' '") as told:
        found = model.label_log_probabilities(prompts, labels)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.label_log_probabilities(prompts, labels)
    np.testing.assert_allclose(
        found.log_probabilities, naive(model, prompts, labels), atol=1e-5, rtol=1e-6
    )
    # As if the space stood before the labels.
    spaced = model.label_log_probabilities(PROMPTS["groups"], [" good", " bad"])
    np.testing.assert_allclose(
        found.log_probabilities, spaced.log_probabilities, atol=1e-5, rtol=1e-6
    )
