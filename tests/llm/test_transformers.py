import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.transformers import TransformersModel

SINGLE = [" good", " bad"]
SEVERAL = [" terrible", " good", " wonderful x"]
NESTED = [" terrible", " good", " good good", " good good bad", " good bad"]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
}


def byte_level_tokenizer() -> Any:
    """A byte-level BPE in which " good", " bad" and "\\n\\n" are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=272,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" good bad\n\n good bad\n\nIt is"] * 8, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrap: Any = PreTrainedTokenizerFast  # its constructor has no types
    return wrap(tokenizer_object=tokenizer, bos_token="<s>")


def save(folder: Path, config: Any) -> Path:
    tokenizer = byte_level_tokenizer()
    config.vocab_size = len(tokenizer)
    set_seed(3)
    any_model: Any = AutoModelForCausalLM  # its methods have no types
    any_model.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), LlamaConfig(**SMALL))


@pytest.fixture
def load(folder: Path) -> Callable[..., TransformersModel]:
    return lambda **options: TransformersModel(str(folder), device="cpu", **options)


@torch.inference_mode()
def naive(
    model: TransformersModel, prompts: Sequence[Prompt], labels: Sequence[str]
) -> NDArray[np.float64]:
    """One pass for each prompt and label over the whole sequence, with all logits."""
    tokenizer, network = model._tokenizer, model._network
    found = np.empty((len(prompts), len(labels)))
    for i, prompt in enumerate(prompts):
        before = tokenizer(prompt.context + prompt.query)["input_ids"]
        for u, label in enumerate(labels):
            tokens = tokenizer(label, add_special_tokens=False)["input_ids"]
            logits = network(torch.tensor([before + tokens])).logits[0].double().log_softmax(-1)
            places = range(len(before) - 1, len(before) + len(tokens) - 1)
            found[i, u] = float(logits[places, tokens].sum())
    total: NDArray[np.float64] = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    return total


def tokens(model: TransformersModel, text: str) -> list[int]:
    return list(model._tokenizer(text, add_special_tokens=False)["input_ids"])


def prompts_of(*groups: tuple[str, Sequence[str]]) -> list[Prompt]:
    return [Prompt(context, query) for context, queries in groups for query in queries]


QUERIES = ["\n\nIt is a film", "\n\nA", "\n\nIt is a much longer sentence, is it not?", "\n\nI do"]
PROMPTS = {
    "one": prompts_of(("", ["Is it good?"])),
    "without contexts": prompts_of(("", ["It is", "It was", "No", "It is not so good"])),
    "nothing in common": prompts_of(("", ["<s>" * 2, "bad", "It is not so good"])),
    "groups": prompts_of(
        ("It is good bad\n\nYes", QUERIES),
        ("A much longer context, " * 4, QUERIES[:3]),
        ("A context about as long, " * 3, QUERIES[::2]),
        ("Ok", QUERIES[1:]),
        ("by itself, but long " * 3, QUERIES[:1]),
        ("another by itself", QUERIES[2:3]),
    ),
    "a query that begins another": prompts_of(("Con", ["", "text", "text and more"])),
}


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
    with pytest.raises(ModelError, match=r"a prompt has 601 tokens .* reads 512 at most"):
        model.label_log_probabilities(prompts, SINGLE)
    # The label's tokens need room, too: all but the last are read.
    fits = prompts_of(("", ["y" * 511]))
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
    with pytest.raises(ValueError, match="'int8' is none of float32, bfloat16, float16"):
        load(precision="int8")
    with pytest.raises(ValueError, match="max_tokens_per_batch is 0"):
        load(max_tokens_per_batch=0)


WINDOW: dict[str, Any] = {**SMALL, "sliding_window": 12}
OTHERS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.25),
    "mistral with a window": MistralConfig(**WINDOW),
    "gemma2 with softcaps": Gemma2Config(**WINDOW, final_logit_softcapping=3.0),
    "gemma3 with mixed layers": Gemma3TextConfig(
        **WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_other_architectures_equal_naive_scoring(tmp_path: Path, config: Any) -> None:
    model = TransformersModel(str(save(tmp_path, config)), device="cpu")
    scores = model.label_log_probabilities(PROMPTS["groups"], SEVERAL)
    expected = naive(model, PROMPTS["groups"], SEVERAL)
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)


def test_an_architecture_that_would_be_scored_wrongly_is_refused(tmp_path: Path) -> None:
    config = GraniteConfig(**SMALL, logits_scaling=3.0)
    with pytest.raises(ModelError, match=r"GraniteForCausalLM.* cannot be used: .* change by"):
        TransformersModel(str(save(tmp_path, config)), device="cpu")


def test_out_of_memory_goes_on_in_smaller_batches(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    expected = model.label_log_probabilities(PROMPTS["groups"], SEVERAL).log_probabilities
    _limit_memory(model, monkeypatch, 150)
    with pytest.warns(UserWarning, match="cpu is out of memory: going on with") as told:
        scores = model.label_log_probabilities(PROMPTS["groups"], SEVERAL)
    assert len(told) == 1
    assert 1 <= model.max_tokens_per_batch < 4096
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-5, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.label_log_probabilities(PROMPTS["groups"], SEVERAL)


def test_out_of_memory_for_a_single_row_is_an_error(
    load: Callable[..., TransformersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    _limit_memory(model, monkeypatch, 3)
    told = pytest.warns(UserWarning, match="out of memory")
    with told, pytest.raises(torch.OutOfMemoryError, match="full"):
        model.label_log_probabilities(PROMPTS["groups"], SEVERAL)


def _limit_memory(model: TransformersModel, patch: pytest.MonkeyPatch, positions: int) -> None:
    """Let a pass of the model fail that attends to more positions, as a full GPU would."""
    body = model._body

    def limited(tokens: torch.Tensor, **options: Any) -> Any:
        cache = options["past_key_values"]
        before = cache.get_seq_length() if cache is not None else 0
        if len(tokens) * (before + tokens.shape[1]) > positions:
            raise torch.OutOfMemoryError("full")
        return body(tokens, **options)

    patch.setattr(model, "_body", limited)


@pytest.mark.parametrize("module", ["base", "cache", "checkpoint"])
def test_modules_that_do_without_torch(module: str) -> None:
    code = f"import sys, asyndbt_mpi.llm.{module}; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "False"
