from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from asyndbt_mpi.assemble import prepare, workers_with_black_box
from asyndbt_mpi.config import Config, load
from asyndbt_mpi.llm.base import NoModel
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.llm.local.packing import ROW_TOKENS
from asyndbt_mpi.protocol.messages import Split
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.partition import rows_of
from asyndbt_mpi.task.rehearsal import longest_prompts
from asyndbt_mpi.task.template import Template
from tests.task.fake import DATA, Fake

TEMPLATE = Template("[[{fragment}: ]]{sentence1}?", [" no", " yes"])


def characters(texts: list[str]) -> list[int]:
    return list(map(len, texts))


class Even(Fake):
    """To which all labels are equally probable."""

    digest = ""

    def longest(self, text: str) -> int:
        return 7 + len(text)

    def label_log_probabilities(self, prompts: Any, labels: Any) -> Any:
        self.probabilities = [[1 / len(labels)] * len(labels)] * len(prompts)
        self.asked.append(list(prompts))
        return Fake.label_log_probabilities(self, prompts, [" no", " yes"])


def test_the_longest_words_demonstrations_and_rows_of_one_worker() -> None:
    longer = replace(
        DATA,
        pool=[
            [Row({"sentence1": "a0"}, 0), Row({"sentence1": "a long", "sentence2": "pair"}, 0)],
            [Row({"sentence1": "b"}, 1)],
        ],
        validation=[Row({"sentence1": "a very long row"}, 1), Row({"sentence1": "short"}, 0)],
    )
    prompts = longest_prompts(
        {1: DATA, 2: longer}, TEMPLATE, ["w", "word", "wo"], 2, "none", characters
    )
    context = "word word: a long? no\n\nword word: b? yes\n\n"
    assert {prompt.context for prompt in prompts} == {context}
    assert prompts[0].query == "word word: a very long row?"
    assert len(prompts) == 2 + 2 + 3  # all rows of the worker: they are few
    many = replace(longer, test=[Row({"sentence1": f"row {n:03}"}, 0) for n in range(100)])
    prompts = longest_prompts({1: many}, TEMPLATE, ["w"], 1, "none", characters)
    lengths = [len(prompt.query) for prompt in prompts]  # of "w: a very long row?" and so on
    assert lengths[:2] == [19, 11]
    assert sum(lengths) <= ROW_TOKENS < sum(lengths) + lengths[-1]


def test_two_queries_however_long_share_a_context() -> None:
    wide = replace(DATA, test=[Row({"sentence1": letter * 500}, 0) for letter in "abc"])
    prompts = longest_prompts({1: wide}, TEMPLATE, ["w"], 1, "none", characters)
    assert [prompt.query[3] for prompt in prompts] == ["a", "b"]


def configuration(*assignments: str) -> Config:
    return load("demo", ["llm.cache=10", *assignments])


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_in_this_process_scores_them_before_anything_else(cached: bool) -> None:
    config = configuration()
    materials = prepare(config, 2)
    model = Even([])
    _, box = workers_with_black_box(
        config, materials, [1, 2], CachedModel(model, 10) if cached else model
    )
    [asked, *_] = model.asked
    lengths = [len(prompt.query) for prompt in asked]
    assert sum(lengths) <= ROW_TOKENS or len(asked) == 2
    assert materials.data is not None
    everything = [
        len(row.texts["sentence1"])
        for held in materials.data.values()
        for split in Split
        for row in rows_of(held, split)
    ]
    query = max(asked, key=lambda prompt: len(prompt.query)).query
    assert any(len(query) >= length for length in np.sort(everything)[-20:])
    assert set(box.data_sizes) == {1, 2}


def test_servers_and_known_answers_are_not_asked() -> None:
    model = Even([])
    config = configuration("llm.backend=openai", "llm.base_url=http://a")
    workers_with_black_box(config, prepare(config, 2), [1], model)
    assert model.asked == []
    config = configuration()
    workers_with_black_box(config, prepare(config, 2), [1], NoModel())  # which would raise
