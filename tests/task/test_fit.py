"""Rows that cannot fit into the model's context are refused, and no others are."""

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig

from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.task import fit, lengths
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.fit import check_fit
from asyndbt_mpi.task.partition import WorkerData
from asyndbt_mpi.task.template import Template
from tests.llm.tiny import SMALL, byte_level_tokenizer, save

TEMPLATE = Template("[[{fragment}: ]]It is {sentence1}?", [" good", " not so bad"])
WORDS = ["a", "good", "long-winded"]
SIZES = {"n_embd": 32, "n_layer": 1, "n_head": 4}


def config(model: Path | str, positions: int = 2, backend: str = "transformers") -> Config:
    return load(
        "demo",
        [
            f"llm.model={model}",
            f"llm.backend={backend}",
            f"prompt.fragment_length={positions}",
        ],
    )


def data(
    *lengths: int, shown: tuple[tuple[int, ...], tuple[int, ...]] = ((3,), (2,))
) -> WorkerData:
    """Training rows of so many letters, and demonstrations of each class."""

    def rows(file: str, label: int, sizes: tuple[int, ...]) -> list[Row]:
        return [
            Row({"sentence1": "x" * n}, label, f"{file}, line {i}")
            for i, n in enumerate(sizes, start=1)
        ]

    pool = [rows(f"pool{label}", label, sizes) for label, sizes in enumerate(shown)]
    return WorkerData(rows("train", 0, lengths), pool, [], [], [1, 1])


def longest_prompt(held: WorkerData, positions: int) -> int:
    """By trying all prompts."""
    tokenizer = byte_level_tokenizer()
    texts = [
        TEMPLATE.context(shown, words) + TEMPLATE.render(row, words) + label
        for words in itertools.product(WORDS, repeat=positions)
        for shown in itertools.product(*held.pool)
        for row in held.train
        for label in TEMPLATE.labels
    ]
    return max(len(tokens) for tokens in tokenizer(texts)["input_ids"])


def test_labels_that_the_tokenizer_cannot_tell_apart(tmp_path: Path) -> None:
    model = save(tmp_path, LlamaConfig(**SMALL))
    template = Template(
        "[[{fragment}: ]]It is {sentence1}?", [" 1", " 1\n\nI", " 2"]
    )  # of which the first begins the second, also with what ends it
    with pytest.raises(
        ConfigurationError, match=r"task\.labels = .*: label 0 is the beginning of another"
    ):
        check_fit(config(model), template, WORDS, {1: data(3)})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads 160 tokens; its kind has another name for that."""
    return save(tmp_path_factory.mktemp("model"), GPT2Config(n_positions=160, **SIZES))


def fits(held: WorkerData, model: Path | str, positions: int = 2) -> bool:
    return check_fit(config(model, positions), TEMPLATE, WORDS, {1: held})


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple)


@given(train=sizes, first=sizes, second=sizes, positions=st.integers(1, 2))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_run_is_refused_if_and_only_if_one_of_its_prompts_does_not_fit(
    model: Path, train: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], positions: int
) -> None:  # fmt: skip
    held = data(*train, shown=(first, second))
    longest = longest_prompt(held, positions)
    if longest <= 160:
        assert fits(held, model, positions)
    else:
        with pytest.raises(ConfigurationError, match=f"has {longest} tokens.* reads at most 160"):
            fits(held, model, positions)


def test_at_the_limit_to_the_token(model: Path) -> None:
    room = 160 - longest_prompt(data(1), 2)
    assert fits(data(1 + room), model)
    with pytest.raises(ConfigurationError):
        fits(data(2 + room), model)


def test_the_message_names_files_lines_and_what_to_do(model: Path) -> None:
    held = data(5, 150, 7, shown=((3, 30, 4), (2,)))
    with pytest.raises(ConfigurationError) as caught:
        fits(held, model)
    message = str(caught.value)
    assert message.startswith("train, line 2 (")
    for part in ("pool0, line 2 (", "pool1, line 1 (", str(model), "reads at most 160", "shorten"):
        assert part in message
    assert "xxx" not in message, "a text is nobody's business"
    assert "\n" not in message


@pytest.mark.parametrize("split", ["train", "validation", "test", "pool"])
def test_every_row_counts(model: Path, split: str) -> None:
    long, short = (
        Row({"sentence1": "x" * 150}, 1, "long, line 7"),
        [Row({"sentence1": "x"}, 0, "short, line 1")],
    )
    splits = dict.fromkeys(("train", "validation", "test"), short)
    pool = [short, [long]] if split == "pool" else [short, short]
    held = WorkerData(
        **{**splits, **({} if split == "pool" else {split: [long]})}, pool=pool, class_counts=[1, 1]
    )
    with pytest.raises(ConfigurationError, match="long, line 7"):
        fits(held, model)


def test_where_it_cannot_be_told(tmp_path: Path, model: Path) -> None:
    held = data(1000)
    assert not check_fit(config("any", backend="openai"), TEMPLATE, WORDS, {1: held})
    assert not fits(held, "nobody/has-this-model-on-this-machine")
    assert not fits(held, tmp_path / "nothing")
    without = save(tmp_path / "mute", GPT2Config(n_positions=160, **SIZES))
    for file in without.glob("tokenizer*"):
        file.unlink()
    assert not fits(held, without)


def test_a_long_model_reads_all(tmp_path: Path) -> None:
    assert fits(data(350), save(tmp_path / "model", LlamaConfig(**SMALL)))


def test_each_text_is_tokenised_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    counter = lengths.counter

    def noting(tokenizer: object) -> lengths.TokenCounter:
        count = counter(tokenizer)

        def noted(texts: list[str]) -> list[int]:
            counted.extend(texts)
            return count(texts)

        return noted

    monkeypatch.setattr(fit, "counter", noting)
    assert fits(data(*range(1, 2 * lengths.TEXTS // 50), shown=((1, 2, 3), (4, 5, 6))), model)
    assert len(counted) == len(set(counted))
