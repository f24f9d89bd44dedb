"""Greedy continuations by a model in this process."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from asyndbt_mpi.llm.base import ModelError, NoModel
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.llm.local.writing import GreedyWriter
from asyndbt_mpi.llm.transformers import TransformersModel
from tests.llm.tiny import BLOOM, MAMBA, OTHERS, SMALL, save

TEXTS = ["It is", "It is a much longer sentence, is it not?", "No", "A film that is so good bad"]
MOST = 12


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), LlamaConfig(**SMALL))


@pytest.fixture
def load(folder: Path) -> Callable[..., TransformersModel]:
    return lambda **options: TransformersModel(str(folder), device="cpu", **options)


def tokens_of(model: TransformersModel, text: str) -> list[int]:
    return model._tokens([text])[0]


@torch.inference_mode()
def naive(model: TransformersModel, text: str, most: int, ends: tuple[int, ...] = ()) -> list[int]:
    """One pass over the whole text for each token."""
    prompt, behind = tokens_of(model, text), list[int]()
    while len(behind) < most and not {*behind} & {*ends}:
        logits = model._network(torch.tensor([prompt + behind]), use_cache=False).logits
        behind.append(int(logits[0, -1].argmax()))
    return behind


def text_of(model: TransformersModel, prompt: str, behind: list[int]) -> str:
    whole: str = model._tokenizer.decode(tokens_of(model, prompt) + behind)
    return whole.removeprefix(model._tokenizer.decode(tokens_of(model, prompt)))


@pytest.mark.parametrize("limit", [4096, 60, 1])
def test_texts_side_by_side_are_those_of_one_after_another(
    load: Callable[..., TransformersModel], limit: int
) -> None:
    model = load(max_tokens_per_batch=limit)
    written = model.write(TEXTS, MOST)
    alone = [naive(model, text, MOST) for text in TEXTS]
    assert written.texts == [text_of(model, *each) for each in zip(TEXTS, alone, strict=True)]
    assert len(set(written.texts)) == len(TEXTS)  # else the comparison could not fail
    assert written.tokens == [MOST] * len(TEXTS)
    assert written.cut == [True] * len(TEXTS)
    lengths = [len(tokens_of(model, text)) for text in TEXTS]
    assert (written.calls, written.prompt_tokens) == (len(TEXTS), sum(lengths))
    assert written.completion_tokens == MOST * len(TEXTS)


@pytest.mark.parametrize(
    "config", [*OTHERS.values(), BLOOM, MAMBA], ids=[*OTHERS, "bloom", "mamba"]
)
def test_other_architectures(tmp_path: Path, config: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of contexts that cannot be shared, or of pads
        model = TransformersModel(str(save(tmp_path, config, spread=0.3)), device="cpu")
        written = model.write(TEXTS, MOST)
    for prompt, text in zip(TEXTS, written.texts, strict=True):
        assert text == text_of(model, prompt, naive(model, prompt, MOST))


def test_the_same_as_generate(folder: Path, load: Callable[..., TransformersModel]) -> None:
    from transformers import AutoModelForCausalLM

    model, any_model = load(), AutoModelForCausalLM
    network = any_model.from_pretrained(folder)
    for text, written in zip(TEXTS, model.write(TEXTS, MOST).texts, strict=True):
        prompt = torch.tensor([tokens_of(model, text)])
        sequence = network.generate(prompt, do_sample=False, max_new_tokens=MOST)[0].tolist()
        assert written == text_of(model, text, sequence[prompt.shape[1] :])


def test_a_text_ends_where_the_model_ends_it(tmp_path: Path) -> None:
    save(tmp_path, LlamaConfig(**SMALL))
    before = TransformersModel(str(tmp_path), device="cpu")
    whole = [naive(before, text, MOST) for text in TEXTS]
    end = whole[0][3]
    # With settings that would make other texts of it.
    settings = {"eos_token_id": [end], "do_sample": True, "repetition_penalty": 5.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    model = TransformersModel(str(tmp_path), device="cpu")
    written = model.write(TEXTS, MOST)
    expected = [naive(model, text, MOST, (end,)) for text in TEXTS]
    assert written.tokens == [len(each) for each in expected]
    assert written.cut == [end not in each for each in expected]
    assert not written.cut[0]
    assert any(written.cut)
    for prompt, text, behind in zip(TEXTS, written.texts, expected, strict=True):
        assert text == text_of(model, prompt, [token for token in behind if token != end])


def test_pads_that_change_the_output_are_done_without(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    generate = GreedyWriter._generate

    def unmasked(self: Any, prompts: list[list[int]], most: int, **options: bool) -> Any:
        longest = max(map(len, prompts))
        padded = [[self._pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        return generate(self, padded, most, **options)

    monkeypatch.setattr(GreedyWriter, "_generate", unmasked)
    with pytest.warns(UserWarning, match="pads change its log-probabilities"):
        written = model.write([*TEXTS, "Is it"], MOST)
    assert written.texts[:4] == [text_of(model, text, naive(model, text, MOST)) for text in TEXTS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.write(TEXTS, MOST).texts == written.texts[:4]


def test_memory_that_runs_out_halves_the_batch(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    expected = model.write(TEXTS, MOST).texts
    generate = GreedyWriter._generate
    sizes = []

    def small(self: Any, prompts: list[list[int]], most: int, **options: bool) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return generate(self, prompts, most, **options)

    monkeypatch.setattr(GreedyWriter, "_generate", small)
    with pytest.warns(UserWarning, match="continuing with max_tokens_per_batch"):
        assert model.write(TEXTS, MOST).texts == expected
    assert max(sizes) == 4
    assert 1 in sizes or 2 in sizes


def test_equal_prompts_are_continued_once(load: Callable[..., TransformersModel]) -> None:
    model = load()
    written = model.write([TEXTS[0], TEXTS[1], TEXTS[0]], MOST)
    assert written.texts[0] == written.texts[2]
    assert (written.calls, written.completion_tokens) == (2, 2 * MOST)


def test_what_cannot_be_continued_is_refused(load: Callable[..., TransformersModel]) -> None:
    model = load()
    with pytest.raises(ModelError, match=r"522 tokens with the 500 that may follow, .* most 512"):
        model.write(["x" * 21], 500)
    with pytest.raises(ValueError, match="not positive"):
        model.write(TEXTS, 0)
    assert model.write([], MOST).texts == []
    with pytest.raises(ModelError, match="all answers should be known"):
        NoModel().write(TEXTS, MOST)


def test_a_cache_pays_once_for_each_prompt_and_length(
    load: Callable[..., TransformersModel],
) -> None:
    model = load()
    cached = CachedModel(model, 10)
    first = cached.write([*TEXTS[:2], TEXTS[0]], MOST)
    assert first.texts == model.write([*TEXTS[:2], TEXTS[0]], MOST).texts
    assert (first.calls, first.completion_tokens) == (2, 2 * MOST)
    again = cached.write(TEXTS[:3], MOST)
    assert again.texts[:2] == first.texts[:2]
    assert (again.calls, again.completion_tokens) == (1, MOST)
    assert (again.tokens, again.cut) == ([MOST] * 3, [True] * 3)
    shorter = cached.write(TEXTS[:1], 2)
    assert (shorter.calls, shorter.tokens) == (1, [2])
