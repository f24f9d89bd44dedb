"""Makes train.jsonl and dev.jsonl of terms.jsonl and relations.jsonl: python make.py FOLDER.

Two related pairs of the same families swap terms and so become two unrelated pairs with the same
passages: gNB & Xn and UPF & N4 give gNB & N4 and UPF & Xn. Such four rows stay in one file. So
each passage, each term and each pair of families has as many related as unrelated rows there, and
none of them alone tells the label.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

SEED = 5

DEV = 0.4
"""Share of the rows that goes to dev.jsonl."""

MOST = 12
"""Related pairs that a term may be in, so that a few hubs do not make up the data."""

LOOSE = "loose"
"""The type of pairs that are neither related nor unrelated beyond dispute."""

WEAK = (LOOSE, "exchanges_with")
"""Types that make no kin: functions that talk to the same one need not be related."""

INHERITED = ("part_of", "kind_of")
"""What is part or kind of a thing is kin to whatever this is tied to."""

Item = TypeVar("Item")
Four = tuple["Pair", "Pair", "Pair", "Pair"]
"""Two related pairs and the two unrelated pairs made of them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two terms; the passage of the ``holder`` is shown, the ``number``-th of its passages."""

    holder: str
    other: str
    number: int


class Graph:
    """The terms by name, and which of them are related, unrelated or neither."""

    def __init__(self, folder: Path) -> None:
        self.terms = {term["term"]: term for term in _read(folder / "terms.jsonl")}
        self.relations = _read(folder / "relations.jsonl")
        self._tied = {frozenset((each["term1"], each["term2"])) for each in self.relations}
        self._ties: dict[str, dict[str, tuple[str, bool]]] = defaultdict(dict)
        for each in self.relations:
            if each["type"] not in WEAK:
                self._ties[each["term1"]][each["term2"]] = each["type"], each["type"] in INHERITED
                self._ties[each["term2"]][each["term1"]] = each["type"], False

    def related(self) -> list[tuple[str, str]]:
        """The pairs with a relation of a definite type."""
        return [(each["term1"], each["term2"]) for each in self.relations if each["type"] != LOOSE]

    def unrelated(self, one: str, other: str) -> bool:
        """Whether two terms have no relation, not even one by way of a third term."""
        return (
            one != other
            and frozenset((one, other)) not in self._tied
            and not any(
                self._kin(self._ties[one][third], self._ties[other][third])
                for third in self._ties[one].keys() & self._ties[other].keys()
            )
        )

    @staticmethod
    def _kin(one: tuple[str, bool], other: tuple[str, bool]) -> bool:
        """Whether ties to the same third term are of one type, or one of them is inherited."""
        return one[0] == other[0] or one[1] or other[1]

    def families(self, pair: Pair) -> tuple[str, str]:
        """Of the holder and of the other."""
        return self.terms[pair.holder]["family"], self.terms[pair.other]["family"]


def make(source: Path, target: Path) -> None:
    """Write train.jsonl and dev.jsonl to the folder ``target``."""
    graph, random = Graph(source), Random(SEED)
    parts: dict[str, list[Four]] = {"train.jsonl": [], "dev.jsonl": []}
    for number, four in enumerate(_fours(graph, _related(graph, random), random)):
        # They come family by family, and each family goes to both files.
        is_dev = int((number + 1) * DEV) > int(number * DEV)
        parts["dev.jsonl" if is_dev else "train.jsonl"].append(four)
    for name, fours in parts.items():
        rows = [
            _row(graph, pair, label, random)
            for four in fours
            for pair, label in zip(four, (1, 1, 0, 0), strict=True)
        ]
        lines = [json.dumps(row) + "\n" for row in _shuffled(rows, random)]
        (target / name).write_text("".join(lines), "ascii", newline="\n")


def _related(graph: Graph, random: Random) -> list[Pair]:
    """Related pairs in random order, no term in more than ``MOST``; each passage in its turn."""
    times: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    pairs = []
    for terms in _shuffled(graph.related(), random):
        if any(times[term] == MOST for term in terms):
            continue
        times.update(terms)
        holder, other = terms if random.random() < 0.5 else terms[::-1]
        passages = graph.terms[holder]["passages"]
        pairs.append(Pair(holder, other, shown[holder] % len(passages)))
        shown[holder] += 1
    return pairs


def _fours(graph: Graph, related: Iterable[Pair], random: Random) -> list[Four]:
    """The ``related`` pairs, two by two, with what they become; not all of them find a partner."""
    groups = defaultdict(list)
    for pair in related:
        groups[graph.families(pair)].append(pair)
    taken: set[frozenset[str]] = set()
    fours = []
    for families in sorted(groups):
        waiting = groups[families]
        while waiting:
            partners = {
                pair: [other for other in waiting if _may_swap(graph, pair, other, taken)]
                for pair in waiting
            }
            # Who has the least choice goes first, and leaves the others as much as possible.
            one = min(waiting, key=lambda pair: len(partners[pair]))
            waiting.remove(one)
            if partners[one]:
                two = min(partners[one], key=lambda pair: len(partners[pair]))
                waiting.remove(two)
                swapped = _swapped(one, two)
                taken.update(_terms(pair) for pair in swapped)
                fours.append((one, two, *swapped))
    return fours


def _may_swap(graph: Graph, one: Pair, two: Pair, taken: set[frozenset[str]]) -> bool:
    """Whether two pairs become two new unrelated ones."""
    first, second = _swapped(one, two)
    return _terms(first) != _terms(second) and all(
        graph.unrelated(pair.holder, pair.other) and _terms(pair) not in taken
        for pair in (first, second)
    )


def _swapped(one: Pair, two: Pair) -> tuple[Pair, Pair]:
    return replace(one, other=two.other), replace(two, other=one.other)


def _terms(pair: Pair) -> frozenset[str]:
    return frozenset((pair.holder, pair.other))


def _row(graph: Graph, pair: Pair, label: int, random: Random) -> dict[str, Any]:
    terms = [pair.holder, pair.other] if random.random() < 0.5 else [pair.other, pair.holder]
    passage = graph.terms[pair.holder]["passages"][pair.number]
    return {"term1": terms[0], "term2": terms[1], "passage": passage, "label": label}


def _shuffled(items: Iterable[Item], random: Random) -> list[Item]:
    """In random order; of the methods of Random only random() is the same in every Python."""
    return sorted(items, key=lambda _: random.random())


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    make(Path(__file__).parent, Path(sys.argv[1]))
