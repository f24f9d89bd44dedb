import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.local.device import is_out_of_memory
from asyndbt_mpi.llm.transformers import TransformersModel
from tests.helpers import ROOT
from tests.llm.naive import naive, tokens
from tests.llm.tiny import LONG, NESTED, OTHERS, PROMPTS, SEVERAL, SINGLE, SMALL, prompts_of, save


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), LlamaConfig(**SMALL))


@pytest.fixture
def load(folder: Path) -> Callable[..., TransformersModel]:
    return lambda **options: TransformersModel(str(folder), device="cpu", **options)


@pytest.mark.parametrize("labels", [SINGLE, SEVERAL, NESTED], ids=["single", "several", "nested"])
@pytest.mark.parametrize("limit", [4096, 150, 1])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
def test_equals_naive_scoring(
    load: Callable[..., TransformersModel], prompts: list[Prompt], limit: int, labels: list[str]
) -> None:
    model = load(max_tokens_per_batch=limit)
    scores = model.label_log_probabilities(prompts, labels)
    expected = naive(model, prompts, labels)
    assert scores.log_probabilities.dtype == np.float64
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)
    assert scores.calls == len(prompts)
    # The scores depend on prompt and label, so that the comparison can fail.
    assert np.ptp(expected, axis=1).min() > 1e-2
    assert len(prompts) == 1 or np.ptp(expected, axis=0).max() > 5e-2


def test_the_labels_are_what_their_names_say(load: Callable[..., TransformersModel]) -> None:
    model = load()
    single, several, nested = (
        [tokens(model, label) for label in labels] for labels in (SINGLE, SEVERAL, NESTED)
    )
    assert all(len(label) == 1 for label in single)
    assert {len(label) == 1 for label in several} == {True, False}
    good, twice, thrice, other = nested[1:]
    assert twice[: len(good)] == good
    assert thrice[: len(twice)] == twice
    assert other[: len(good)] == good


def test_context_and_query_are_tokenised_as_one_text(
    load: Callable[..., TransformersModel],
) -> None:
    model = load()
    assert len(tokens(model, "\n\n")) == 1  # and it is cut in two here:
    prompts = prompts_of(("It is\n", ["\n good", "\n bad", " bad"]))
    scores = model.label_log_probabilities(prompts, SINGLE)
    expected = naive(model, prompts, SINGLE)
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)


def test_many_short_and_long_queries_fill_several_rows(
    load: Callable[..., TransformersModel],
) -> None:
    model = load()
    generator = np.random.default_rng(0)
    queries = [" ".join(["it", "is"] * n) + str(n) for n in generator.integers(0, 30, 60)]
    prompts = prompts_of(("Context\n\n", list(dict.fromkeys(queries))), ("Second", queries[:5]))
    scores = model.label_log_probabilities(prompts, SEVERAL)
    expected = naive(model, prompts, SEVERAL)
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)


def test_answers_come_in_the_order_asked(load: Callable[..., TransformersModel]) -> None:
    model = load()
    prompts = PROMPTS["groups"]
    order = np.random.default_rng(1).permutation(len(prompts))
    straight = model.label_log_probabilities(prompts, SEVERAL)
    shuffled = model.label_log_probabilities([prompts[i] for i in order], SEVERAL)
    np.testing.assert_allclose(
        shuffled.log_probabilities, straight.log_probabilities[order], atol=1e-5, rtol=0
    )
    assert shuffled.prompt_tokens == straight.prompt_tokens


def test_equal_prompts_are_scored_once(load: Callable[..., TransformersModel]) -> None:
    model = load()
    once = prompts_of(("Con", ["text a", "text b"]))
    # The last is the first with its parts cut elsewhere.
    scores = model.label_log_probabilities([*once, once[0], Prompt("", "Context a")], SINGLE)
    alone = model.label_log_probabilities(once, SINGLE)
    assert scores.calls == alone.calls == 2
    assert scores.prompt_tokens == alone.prompt_tokens
    np.testing.assert_array_equal(scores.log_probabilities[[0, 0]], scores.log_probabilities[2:])


def test_no_prompts_cost_nothing(load: Callable[..., TransformersModel]) -> None:
    scores = load().label_log_probabilities([], SINGLE)
    assert scores.log_probabilities.shape == (0, 2)
    assert (scores.calls, scores.prompt_tokens) == (0, 0)


def test_a_shared_context_counts_once(load: Callable[..., TransformersModel]) -> None:
    model = load()
    context, ends = "It is a context:", ["A", "bcd", "ef"]
    shared = 1 + len(tokens(model, context))  # with <s>
    own = sum(len(tokens(model, end)) for end in ends)
    prompts = prompts_of((context, ends))
    for limit in (4096, 1):
        model = load(max_tokens_per_batch=limit)
        assert model.label_log_probabilities(prompts, SINGLE).prompt_tokens == shared + own
    terrible = len(tokens(model, " terrible"))
    assert terrible > 1
    # One more label of several tokens: each prompt is followed by all of them but the last.
    longer = model.label_log_probabilities(prompts, [*SINGLE, " terrible"]).prompt_tokens
    assert longer == shared + own + len(ends) * (terrible - 1)


def test_bounds_on_calls_and_tokens(load: Callable[..., TransformersModel]) -> None:
    model = load()
    for prompt in PROMPTS["groups"]:
        scores = model.label_log_probabilities([prompt], SEVERAL)
        assert scores.calls <= model.most_calls(1, SEVERAL)
        assert scores.prompt_tokens <= model.longest(prompt.context + prompt.query)
    assert model.longest("") == 1 + 64  # with <s>


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([" good", " bad", " good"], "labels 0 and 2 have the same tokens"),
        ([" good", ""], "label 1 has no tokens"),
        ([], "there are no labels"),
    ],
)
def test_labels_that_cannot_be_scored(
    load: Callable[..., TransformersModel], labels: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load().label_log_probabilities(PROMPTS["one"], labels)


def test_a_prompt_longer_than_the_model_reads(load: Callable[..., TransformersModel]) -> None:
    model = load()
    prompts = prompts_of(("", ["short", "y" * 600]))
    with pytest.raises(ModelError, match=r"a prompt has 602 tokens .* reads at most 512"):
        model.label_log_probabilities(prompts, SINGLE)
    # The label's tokens need room, too.
    fits = prompts_of(("", ["y" * 510]))
    model.label_log_probabilities(fits, SINGLE)
    with pytest.raises(ModelError, match="tokens with its label"):
        model.label_log_probabilities(fits, SEVERAL)


def test_the_description_names_model_device_precision_and_threads(folder: Path) -> None:
    model = TransformersModel(str(folder), device="cpu", threads=1)
    assert model.description == f"{folder}, cpu, 1 thread, float32"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close(load: Callable[..., TransformersModel], precision: str) -> None:
    full = load().label_log_probabilities(PROMPTS["groups"], SEVERAL)
    half = load(precision=precision).label_log_probabilities(PROMPTS["groups"], SEVERAL)
    assert np.abs(np.exp(full.log_probabilities) - np.exp(half.log_probabilities)).max() < 0.1


def test_constructor_arguments_are_checked(load: Callable[..., TransformersModel]) -> None:
    with pytest.raises(ValueError, match="'int8' is not one of float32, bfloat16, float16"):
        load(precision="int8")
    with pytest.raises(ValueError, match="max_tokens_per_batch is 0"):
        load(max_tokens_per_batch=0)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_other_architectures_equal_naive_scoring(tmp_path: Path, config: Any) -> None:
    model = TransformersModel(str(save(tmp_path, config)), device="cpu")
    for prompts in (PROMPTS["groups"], LONG):
        scores = model.label_log_probabilities(prompts, SEVERAL)
        expected = naive(model, prompts, SEVERAL)
        np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)
    assert model._packed is not None


# What torch says, by where the memory ran out; see torch's sources.
OUT_OF_MEMORY = {
    "torch's allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "CUDA": torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemory...'"),
    "the driver": RuntimeError("CUDA driver error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "the CPU": RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
def test_out_of_memory_goes_on_in_smaller_batches(
    load: Callable[..., TransformersModel],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    model = load()
    expected = model.label_log_probabilities(PROMPTS["groups"], SEVERAL).log_probabilities
    _limit_memory(model, monkeypatch, 150, error)
    told = r"out of memory on cpu, 1 thread: continuing with max_tokens_per_batch = 64$"
    with pytest.warns(UserWarning, match=told) as warned:
        scores = model.label_log_probabilities(PROMPTS["groups"], SEVERAL)
    # Not those of other tests' leavings, which are collected here.
    assert [warning.category for warning in warned].count(UserWarning) == 1
    assert model.max_tokens_per_batch == 64
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.label_log_probabilities(PROMPTS["groups"], SEVERAL)


def test_the_processor_says_what_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert is_out_of_memory(raised.value)


def test_out_of_memory_for_a_single_prompt_is_an_error(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    _limit_memory(model, monkeypatch, 3, torch.OutOfMemoryError("full"))
    with pytest.raises(
        ModelError, match=r"a single prompt does not fit into .* cpu, 1 thread: use"
    ):
        model.label_log_probabilities(PROMPTS["groups"], SEVERAL)


def test_other_errors_are_raised_as_they_are(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    _limit_memory(model, monkeypatch, 3, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        model.label_log_probabilities(PROMPTS["groups"], SEVERAL)
    assert model.max_tokens_per_batch == 4096


def test_a_model_that_does_not_fit_is_an_error_of_one_line(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelError, match=r"^model '.*' does not fit into the memory of cpu, .*$"):
        load()


def test_containers_that_switch_tf32_on_do_not_change_float32(
    load: Callable[..., TransformersModel],
) -> None:
    torch.set_float32_matmul_precision("high")
    try:
        load()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def _limit_memory(
    model: TransformersModel, patch: pytest.MonkeyPatch, positions: int, error: RuntimeError
) -> None:
    """Let a pass of the model fail that attends to more positions, as a full GPU would."""
    packed = model._packed
    assert packed is not None
    body = packed._body

    def limited(tokens: torch.Tensor, **options: Any) -> Any:
        cache = options["cache"]
        before = cache.get_seq_length() if cache is not None else 0
        if len(tokens) * (before + tokens.shape[1]) > positions:
            raise error
        return body(tokens, **options)

    patch.setattr(packed, "_body", limited)


@pytest.mark.parametrize("module", ["base", "cache", "checkpoint"])
def test_modules_that_do_without_torch(module: str) -> None:
    code = f"import sys, asyndbt_mpi.llm.{module}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "False"
