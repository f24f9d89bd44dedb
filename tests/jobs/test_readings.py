"""Ranks that have read something else than rank 0."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from asyndbt_mpi.assemble import prepare
from asyndbt_mpi.config import load
from asyndbt_mpi.jobs.readings import digests, first_difference, reading


def read(*settings: str, words: list[str] | None = None, data: str = "") -> str:
    config = load("reviews", settings)
    materials = prepare(config, 2)
    changes = {"vocabulary": words} if words else {}
    return reading(config, replace(materials, **changes, data_digest=data or materials.data_digest))


def test_all_alike() -> None:
    assert first_difference([read()] * 3) is None


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: read("llm.cache=7"), r"another configuration than rank 0 on .*: llm\.cache = 7, not 100000;"),
        (lambda: read(words=["x"] * 16), "another word list than rank 0 on"),
        (lambda: read(data="0f"), "other data than rank 0 on"),
    ],
)  # fmt: skip
def test_the_rank_and_what_differs_are_named(other, says: str) -> None:
    texts = [read(), read(), other(), other()]
    assert re.match(f"rank 2 on .* has read {says}", first_difference(texts) or "")


def test_a_configuration_of_another_version() -> None:
    host, config, own = json.loads(read())
    own["configuration"] = "0f"
    text = json.dumps([host, config.replace("[llm]", "[llm]\nunheard_of = 1"), own])
    assert "another configuration" in (first_difference([read(), text]) or "")


def test_the_digest_of_the_data_is_of_its_texts_and_not_of_its_place(tmp_path: Path) -> None:
    lines = {
        name: [json.dumps({"sentence1": f"{name} {i}", "label": i % 2}) for i in range(120)]
        for name in ("train", "dev")
    }

    def digest(folder: str, change: int | None = None, gap: bool = False) -> str:
        for name, of_file in lines.items():
            own = list(of_file)
            if change is not None:
                own[change] = own[change].replace(name, "other")
            path = tmp_path / folder / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n" * gap + "\n".join(own))
        config = load("reviews", [f"task.path={tmp_path / folder}", "task.test=100"])
        return digests(config, prepare(config, 2))["data"]

    assert digest("a") == digest("b") == digest("c", gap=True)
    assert len({digest("a"), *(digest("d", change) for change in range(0, 120, 40))}) > 1
