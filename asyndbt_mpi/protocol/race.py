"""The race for a worker's final prompt: successive halving on nested rows, by paired differences.

All prompts are scored on the same first rows of `Split.RACE`. After each round the better half
goes on (Jamieson and Talwalkar, 2016), less those that are clearly worse than the best, and is
scored on more rows, until two are compared on all of them. Validation rows come first, for the
training rows are those from which the prompts were learnt. The winner's loss is the least of
several, and flatters it: only the test rows say how good it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from math import ceil, inf, log2
from typing import TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.protocol.messages import (
    WITHOUT,
    Candidate,
    CostBounds,
    EvaluationRequest,
    MalformedMessage,
    Shapes,
    Split,
)

CLEARLY = 2.0
"""Standard errors of a mean difference over rows that are more than chance."""

FEWEST = 16
"""Rows by which prompts can be told apart."""

FEW = 4
"""Prompts that a race should have at least, if need be on a part of the rows."""

OF_MODEL = 4
"""The most prompts of a worker's model that take part."""

Prompt: TypeAlias = tuple[IntArray, IntArray]
"""Words (M,) and demonstrations (U,), as indices, `WITHOUT` for none."""


def bare_prompt(shapes: Shapes) -> Prompt:
    """The prompt without words and demonstrations."""
    return np.full(shapes.positions, WITHOUT), np.full(shapes.classes, WITHOUT)


def is_same(one: Prompt, other: Prompt) -> bool:
    """Whether both are the same prompt."""
    return all(map(np.array_equal, one, other))


Rounds: TypeAlias = list[tuple[int, int]]
"""The most prompts of each round, and how often its rows are halved."""


def halvings(prompts: int) -> int:
    """How often the rows are halved for a round of so many ``prompts``; two are scored on all."""
    return 0 if prompts <= 2 else ceil(log2(prompts))


def rounds(prompts: int, rows: int, halved: int = 0) -> Rounds:
    """The rounds of a race of two or more ``prompts``, on ``rows`` that are ``halved`` beforehand.

    None has the same rows as the one before, which would only repeat its scores. If fewer prompts
    are left than there is room for, rounds are skipped, so that no race costs more.
    """
    left = [prompts]
    while halvings(left[-1]):
        left.append(ceil(left[-1] / 2))
    halved_for = [(each, halvings(each) + halved) for each in left]
    groups = groupby(halved_for, key=lambda each: first_rows(rows, each[1]))
    same_rows = [list(group) for _, group in groups]
    return [(group[0][0], group[-1][1]) for group in same_rows]


def most_calls(bounds: CostBounds, halved: int) -> int:
    """The most that a prompt on ``halved`` rows costs: each row that is left out saves a call.

    That holds however many calls a prompt takes; those for calibration come with any rows.
    """
    return bounds.race - bounds.race_rows + first_rows(bounds.race_rows, halved)


def size(plan: Rounds, bounds: CostBounds, has_cache: bool) -> int:
    """The most calls that a race costs, if as many prompts as possible stay.

    A cache knows the rows of the round before.
    """
    total = known = 0
    for prompts, halved in plan:
        total += prompts * (most_calls(bounds, halved) - known)
        known = has_cache * first_rows(bounds.race_rows, halved)
    return total


def reserve(plan: Rounds, bounds: CostBounds, has_cache: bool) -> int:
    """How many calls must be left for a race to be finished.

    Even the last prompt is only scored if calls for all of its rows are left: a cache might fail.
    """
    known = first_rows(bounds.race_rows, plan[-2][1]) if has_cache and len(plan) > 1 else 0
    return size(plan, bounds, has_cache) + known


def plan(most: int, bounds: CostBounds, has_cache: bool, share: float = inf) -> Rounds:
    """The rounds of a race of at most ``most`` prompts whose `reserve` is within ``share``.

    If not even `FEW` prompts can be compared on all rows, fewer rows are; there are no rounds if
    there is room for none.
    """
    best: Rounds = []
    racing = 1
    for halved in count():
        for prompts in range(most, racing, -1):
            found = rounds(prompts, bounds.race_rows, halved)
            if reserve(found, bounds, has_cache) <= share:
                best, racing = found, prompts
                break
        if racing >= min(most, FEW) or first_rows(bounds.race_rows, halved) <= FEWEST:
            return best
    raise AssertionError


def first_rows(rows: int, halved: int) -> int:
    """How many of a split's ``rows`` are left after so many halvings, at least `FEWEST`."""
    left: int = -(-rows // 2**halved)
    return min(rows, max(left, FEWEST))


def is_clear(differences: FloatArray) -> bool:
    """Whether the mean of paired ``differences`` (B,) is above 0 by more than chance.

    One row has no chance in it that could be known; it is taken as it is.
    """
    mean = differences.mean()
    if len(differences) < 2:
        return bool(mean > 0)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return bool(mean > CLEARLY * error)


@dataclass(slots=True)
class Entrant:
    """A prompt in the race, and its losses (B,) in the newest round that it took part in.

    Without ``prompt`` it is that of ``rank`` in the worker's model, which nobody else knows yet.
    """

    candidate: Candidate
    prompt: Prompt | None
    rank: int = 0
    losses: FloatArray | None = None

    @property
    def loss(self) -> float:
        """Mean over the rows."""
        assert self.losses is not None
        return float(self.losses.mean())

    def is_same(self, other: "Entrant") -> bool:
        """Whether both are known to be the same prompt."""
        return (
            self.prompt is not None
            and other.prompt is not None
            and is_same(self.prompt, other.prompt)
        )


def entrants(
    most: int,
    untuned: Prompt,
    random: Prompt,
    newest: Prompt,
    consensus: Prompt,
    validated: Sequence[Prompt],
    has_model: bool,
) -> list[Entrant]:
    """At most ``most`` different prompts for a race, in the order in which they are scored.

    ``newest`` is the most probable one at the end; ``validated`` are those of earlier iterations,
    the best first, and what wins if the budget allows no race. Prompts of a model may turn out to
    be the same as others.
    """
    best = [Entrant(Candidate.TUNED, prompt) for prompt in (*validated, newest)]
    model = [Entrant(Candidate.MODEL, None, rank) for rank in range(OF_MODEL * has_model)]
    chosen: list[Entrant] = []
    for each in (
        best[0],
        Entrant(Candidate.UNTUNED, untuned),
        *model[:2],
        Entrant(Candidate.RANDOM, random),
        best[-1],
        Entrant(Candidate.CONSENSUS, consensus),
        *model[2:],
        *best[1:-1],
    ):
        if not any(map(each.is_same, chosen)):
            chosen.append(each)
    return chosen[:most]


class Race:
    """The race of one worker's prompts.

    Parameters
    ----------
    entrants : the first is no model's
    rounds : with room for all of them; none for a single one
    rows : of the worker's data that all rounds are on

    Attributes
    ----------
    running : the prompts that are left, and in the end the winner alone
    """

    def __init__(self, entrants: Iterable[Entrant], rounds: Rounds, rows: int) -> None:
        self.rows = rows
        self.running = list(entrants)
        self._scored: list[Entrant] = []
        self._over = len(self.running) == 1
        self._rounds = list(rounds)
        self._skip_rounds()

    @property
    def winner(self) -> Prompt:
        """The best so far: of those scored in the newest round, or else in the one before."""
        best = min(self._scored, key=lambda each: each.loss) if self._scored else self.running[0]
        assert best.prompt is not None
        return best.prompt

    def next(self, iteration: int) -> EvaluationRequest | None:
        """The next prompt to score; None when the race is over."""
        if self._over:
            return None
        entrant = self.running[len(self._scored)]
        words, shown = entrant.prompt or self._unknown()
        kind = Split.RACE, entrant.candidate
        return EvaluationRequest(iteration, *kind, words, shown, entrant.rank, self._rounds[0][1])

    def _unknown(self) -> Prompt:
        """In place of a model's prompt, which only a first round can have; see ``entrants``."""
        known = self.running[0].prompt
        assert known is not None
        return np.full_like(known[0], WITHOUT), np.full_like(known[1], WITHOUT)

    def check(self, losses: FloatArray) -> None:
        """Refuse ``losses`` (B,) of the next prompt that are not of the rows of its round.

        Raises
        ------
        MalformedMessage
        """
        due = None if self._over else first_rows(self.rows, self._rounds[0][1])
        if due is not None and len(losses) != due:
            raise MalformedMessage(
                f"a prompt of the race was scored on {len(losses)} rows, its round is on {due}"
            )

    def take(self, prompt: Prompt, losses: FloatArray) -> None:
        """The prompt that was asked for has been scored: its ``losses`` are (B,)."""
        entrant = self.running[len(self._scored)]
        entrant.prompt, entrant.losses = prompt, losses
        self._scored.append(entrant)
        if len(self._scored) == len(self.running):
            self._end_round()

    def _end_round(self) -> None:
        room = self._rounds[1][0] if len(self._rounds) > 1 else 1
        self.running = self._survivors()[:room]
        self._over = len(self.running) == 1
        self._scored = []
        self._skip_rounds()

    def _skip_rounds(self) -> None:
        """On to the last round that has room for all who are left."""
        while len(self._rounds) > 1 and len(self.running) <= self._rounds[1][0]:
            del self._rounds[0]

    def _survivors(self) -> list[Entrant]:
        """The better half of the different prompts, the best first; see the module."""
        ranked: list[Entrant] = []
        for each in sorted(self._scored, key=lambda each: each.loss):
            if not any(map(each.is_same, ranked)):
                ranked.append(each)
        leader = ranked[0]
        better = ranked[: ceil(len(self._scored) / 2)]
        return [each for each in better if each is leader or not _is_worse(each, leader)]


def _is_worse(entrant: Entrant, leader: Entrant) -> bool:
    assert entrant.losses is not None
    assert leader.losses is not None
    # A single row of many says nothing of the others.
    return len(leader.losses) > 1 and is_clear(entrant.losses - leader.losses)
