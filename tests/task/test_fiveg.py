"""The shipped pairs of 5G terms: what they claim, and that nothing but knowledge tells the labels."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from asyndbt_mpi.config import load
from asyndbt_mpi.task import dataset
from asyndbt_mpi.task.partition import split
from asyndbt_mpi.task.template import Template

FOLDER = Path(str(resources.files("asyndbt_mpi.task"))) / "data" / "fiveg"
PAPER = (
    "In 5G network, Whether {term1} related to {term2}? Some contextual information: {passage}. "
    'Respond ONLY with "Yes" or "No".[[ Note: {fragment}.]]'
)

Words = Callable[[dict[str, Any]], list[str]]


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text("ascii").splitlines()]


TERMS = {term["term"]: term for term in read("terms.jsonl")}
RELATIONS = read("relations.jsonl")
TRAIN, DEV = read("train.jsonl"), read("dev.jsonl")


def pair(row: dict[str, Any]) -> frozenset[str]:
    return frozenset((row["term1"], row["term2"]))


def names(text: str, term: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", text) is not None


def search_for(phrases: Iterable[str], flags: int = 0) -> re.Pattern[str]:
    """Finds whole ``phrases``, of several at one place the longest."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", flags)


def words(text: str) -> list[str]:
    return re.findall(r"[\w*'/-]+", text.casefold())


def spelt_out(term: str) -> set[str]:
    return set(words(f"{term} {TERMS[term]['name']}"))


def families(row: dict[str, Any]) -> str:
    return " ".join(sorted(TERMS[term]["family"] for term in pair(row)))


# ---------------------------------------------------------------- as a task


def test_three_workers_find_enough_rows() -> None:
    config = load("fiveg")
    columns = Template(config.task.template, config.task.label_texts).columns
    assert columns == ["passage", "term1", "term2"]
    data = dataset.load(config.task, columns, config.run.seed)
    parts = split(data, config.task, config.prompt.pool, 3, config.run.seed)
    for part in parts:
        assert [len(rows) for rows in part.pool] == [50, 50]
        assert Counter(row.label for row in part.train) == {0: 10, 1: 10}
        assert Counter(row.label for row in part.test) == {0: 100, 1: 100}


def test_the_wording_of_the_paper_is_its_template_to_the_letter() -> None:
    task = load("fiveg", ("task.wording=paper",)).task
    assert task.template == PAPER
    shown = Template(task.template, task.label_texts).render(dataset.Row(TRAIN[0], 0), None)
    assert shown.endswith('Respond ONLY with "Yes" or "No".')


def test_the_files_are_those_that_the_generator_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], check=True)
    for name in ("train.jsonl", "dev.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


# ---------------------------------------------------------------- the sources


def test_terms_are_plain() -> None:
    assert len(TERMS) >= 150
    for term in TERMS.values():
        assert list(term) == ["term", "name", "family", "definition", "passages"]
        assert len(set(term["passages"])) == 2
        for text in (term["definition"], *term["passages"]):
            assert text == " ".join(text.split())
            assert text.endswith(".")
    texts = [text for term in TERMS.values() for text in (term["definition"], *term["passages"])]
    assert len(set(texts)) == len(texts)


def test_a_passage_names_its_term_and_no_other() -> None:
    """Neither by its short form nor, in any case, by its name."""
    forms = search_for(TERMS)
    full = search_for([entry["name"] for entry in TERMS.values()], re.IGNORECASE)
    for term, entry in TERMS.items():
        for text in entry["passages"]:
            assert set(forms.findall(text)) == {term}
            assert {name.casefold() for name in full.findall(text)} <= {entry["name"].casefold()}


def test_relations_are_between_terms_and_given_once() -> None:
    pairs = [frozenset((each["term1"], each["term2"])) for each in RELATIONS]
    assert all(len(each) == 2 and each <= TERMS.keys() for each in pairs)
    assert len(set(pairs)) == len(pairs)
    for each in RELATIONS:
        assert ("source" in each) == (each["type"] != "loose")


def test_the_datasheet_counts_right() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    types = Counter(each["type"] for each in RELATIONS)
    assert dict(re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", text, re.MULTILINE)) == {
        type: str(count) for type, count in types.items()
    }
    kinds = Counter(term["family"] for term in TERMS.values())
    assert dict(re.findall(r"^\| (\w+) \| .* \| (\d+) \|$", text, re.MULTILINE)) == {
        family: str(count) for family, count in kinds.items()
    }
    for name, rows in (("train.jsonl", TRAIN), ("dev.jsonl", DEV)):
        terms = {term for row in rows for term in pair(row)}
        passages = {row["passage"] for row in rows}
        half = len(rows) // 2
        line = f"| `{name}` | {len(rows)} | {half} | {half} | {len(terms)} | {len(passages)} |"
        assert line in text


# ---------------------------------------------------------------- the rows


def test_no_pair_occurs_twice() -> None:
    times = Counter(pair(row) for row in TRAIN + DEV)
    assert [sorted(each) for each, count in times.items() if count > 1] == []


def test_a_passage_is_one_of_its_pair() -> None:
    for row in TRAIN + DEV:
        assert list(row) == ["term1", "term2", "passage", "label"]
        assert any(row["passage"] in TERMS[term]["passages"] for term in pair(row))


def test_labels_follow_from_the_relations() -> None:
    types = {frozenset((each["term1"], each["term2"])): each["type"] for each in RELATIONS}
    for row in TRAIN + DEV:
        assert types.get(pair(row)) != "loose"
        assert (pair(row) in types) == (row["label"] == 1)


def test_unrelated_terms_have_no_relation_by_way_of_a_third() -> None:
    """None of one type to the same term, and what a whole has, its parts are not denied."""
    ties: dict[str, dict[str, str]] = defaultdict(dict)
    wholes: dict[str, set[str]] = defaultdict(set)
    for each in RELATIONS:
        one, type, other = each["term1"], each["type"], each["term2"]
        if type not in ("loose", "exchanges_with"):
            ties[one][other] = ties[other][one] = type
        if type in ("part_of", "kind_of"):
            wholes[one].add(other)
    for one, other in (sorted(pair(row)) for row in TRAIN + DEV if row["label"] == 0):
        assert not ties[one].items() & ties[other].items()
        assert not wholes[one] & ties[other].keys()
        assert not wholes[other] & ties[one].keys()


@pytest.mark.parametrize("rows", [TRAIN, DEV], ids=["train", "dev"])
def test_passages_terms_and_families_are_balanced(rows: list[dict[str, Any]]) -> None:
    for each in (
        lambda row: [row["passage"]],
        lambda row: [row["term1"], row["term2"]],
        lambda row: [families(row)],
    ):
        counts = [
            Counter(x for row in rows if row["label"] == k for x in each(row)) for k in (0, 1)
        ]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("rows", [TRAIN, DEV], ids=["train", "dev"])
def test_rows_are_shuffled(rows: list[dict[str, Any]]) -> None:
    changes = sum(one["label"] != other["label"] for one, other in pairwise(rows))
    assert abs(changes / len(rows) - 0.5) < 0.1
    first = sum(names(row["passage"], row["term1"]) for row in rows)
    assert abs(first / len(rows) - 0.5) < 0.1


# ---------------------------------------------------------------- artefacts


def accuracy(
    train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]], features: Words
) -> float:
    """Of a logistic regression with a ridge; a score of about 0 is half right."""
    columns = sorted({word for row in train for word in features(row)})

    def matrix(rows: Sequence[dict[str, Any]]) -> Any:
        sets = [set(features(row)) for row in rows]
        return np.array([[column in own for column in columns] + [True] for own in sets], float)

    x, signs = matrix(train), np.array([2 * row["label"] - 1 for row in train])

    def loss(w: Any) -> tuple[float, Any]:
        margins = signs * (x @ w)
        value = np.logaddexp(0, -margins).sum() + w @ w / 2
        return float(value), -x.T @ (signs / (1 + np.exp(margins))) + w

    w = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    scores = (matrix(test) @ w) * np.array([2 * row["label"] - 1 for row in test])
    return float(np.mean(np.where(np.abs(scores) < 1e-3, 0.5, scores > 0)))


FEATURES: dict[str, tuple[Words, float]] = {
    "passage": (lambda row: words(row["passage"]), 0.55),
    "length": (lambda row: [str(len(words(row["passage"])))], 0.55),
    "terms": (lambda row: [row["term1"], row["term2"]], 0.55),
    "term by place": (lambda row: ["1 " + row["term1"], "2 " + row["term2"]], 0.58),
    "first term": (lambda row: [row["term1"]], 0.58),
    "families": (lambda row: [families(row)], 0.55),
    "all words": (
        lambda row: (
            words(row["passage"]) + [each for term in pair(row) for each in spelt_out(term)]
        ),
        0.6,
    ),
    "words in common": (lambda row: [str(len(set.intersection(*map(spelt_out, pair(row)))))], 0.62),
}


@pytest.mark.parametrize("name", FEATURES)
def test_no_shallow_feature_tells_the_label(name: str) -> None:
    features, bound = FEATURES[name]
    for train, test in ((TRAIN, DEV), (DEV, TRAIN)):
        assert 1 - bound <= accuracy(train, test, features) <= bound


def test_an_artefact_would_be_found() -> None:
    """Were every third passage of related terms to say so, the passages would tell."""

    def features(row: dict[str, Any]) -> list[str]:
        says = row["label"] == 1 and len(row["passage"]) % 3 == 0
        return words(row["passage"]) + ["related"] * says

    assert accuracy(TRAIN, DEV, features) > 0.6
