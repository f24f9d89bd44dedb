"""How token sequences are laid out for the model, so that nothing is computed twice or in vain.

Sequences of one context share a prefix, which goes through the model once.  What each has of its
own follows, together with the labels' nodes: that is a *tail*.  Several tails stand side by side
in one *row*, kept apart by the attention mask, so that rows become about equally long and little
is padded.  Rows are independent of how many prompts a context has: neither the prefix nor its
keys and values are copied for each of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.local.labels import LabelTree

Thing = TypeVar("Thing")

ROW_TOKENS = 256
"""Tokens in a row of tails.  Attention is computed between all tokens of a row and then masked:
up to this length that costs a few percent, beyond it grows."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Tokens, one at least, that prompt number ``prompt`` has after its group's prefix."""

    prompt: int
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Group:
    """Tails that follow one prefix, which may be empty."""

    prefix: list[int]
    tails: list[Tail]


@dataclass(frozen=True, slots=True)
class Row:
    """Tails that stand side by side; all follow the prefix of group number ``group``."""

    group: int
    tails: list[Tail]
    length: int
    """Tokens of all tails, each with the labels' nodes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """R rows in arrays, padded on the right to L; P is the length of the longest prefix."""

    tokens: NDArray[np.int64]
    """(R, L)"""

    positions: NDArray[np.int64]
    """(R, L) distance of each token from the start of its own sequence."""

    visible: NDArray[np.bool_]
    """(R, L, P + L): which of the prefix and of the row each token may attend to."""

    prompts: NDArray[np.int64]
    """(n,) the prompts in the rows."""

    rows: NDArray[np.int64]
    """(n, 1) where they are."""

    columns: NDArray[np.int64]
    """(n, 1 + K) the last token of each, and the labels' nodes behind it."""


def group_by_context(contexts: Sequence[str], sequences: Sequence[list[int]]) -> list[Group]:
    """Split token sequences of equal context into their longest common prefix and tails.

    The prefix is found among the tokens, for a text's tokens need not break where the context
    ends.  Sequences that have nothing in common with another one form the group without prefix.
    """
    members: dict[str, list[int]] = {}
    for prompt, context in enumerate(contexts):
        members.setdefault(context, []).append(prompt)
    groups = []
    alone = []
    for prompts in members.values():
        shared = _common_length([sequences[prompt] for prompt in prompts]) if prompts[1:] else 0
        tails = [Tail(prompt, sequences[prompt][shared:]) for prompt in prompts]
        if shared:
            groups.append(Group(sequences[prompts[0]][:shared], tails))
        else:
            alone += tails
    return [*groups, Group([], alone)] if alone else groups


def _common_length(sequences: Sequence[list[int]]) -> int:
    """Tokens that all begin with, so that each keeps one of its own."""
    # The sequences between the least and the greatest agree wherever these two do.
    first, last = min(sequences), max(sequences)
    end = min(map(len, sequences)) - 1
    return next((n for n in range(end) if first[n] != last[n]), end)


def fill_rows(number: int, group: Group, nodes: int, capacity: int) -> list[Row]:
    """Deal the tails of a group out to as many rows as it takes, about equally long.

    Parameters
    ----------
    number : int
        That of the group in its batch.
    nodes : int
        Nodes of the labels, which follow each tail.
    capacity : int
        Tokens that a row should hold; one that is dealt unevenly may hold a little more.
    """
    tails = sorted(group.tails, key=lambda tail: -len(tail.tokens))
    total = sum(len(tail.tokens) + nodes for tail in tails)
    rows: list[list[Tail]] = [[] for _ in range(min(-(-total // capacity), len(tails)))]
    lengths = [0] * len(rows)
    for tail in tails:
        shortest = lengths.index(min(lengths))
        rows[shortest].append(tail)
        lengths[shortest] += len(tail.tokens) + nodes
    return [Row(number, own, length) for own, length in zip(rows, lengths, strict=True)]


def batches(
    things: Sequence[Thing], length: Callable[[Thing], int], beside: int, limit: int
) -> list[list[Thing]]:
    """Cut things into batches of similar length, with at most ``limit`` tokens each, pads included.

    Parameters
    ----------
    beside : int
        Tokens that each thing needs besides its own length.
    """
    found: list[list[Thing]] = []
    longest = 0
    for thing in sorted(things, key=lambda thing: -length(thing)):
        full = not found or (len(found[-1]) + 1) * (longest + beside) > limit
        # Things less than half as long would be mostly pads; a batch of their own costs less.
        if full or 2 * length(thing) < longest:
            found.append([])
            longest = length(thing)
        found[-1].append(thing)
    return found


def lay_out(rows: Sequence[Row], prefix_lengths: Sequence[int], tree: LabelTree) -> Layout:
    """Arrays of a batch of rows; ``prefix_lengths`` are those of all groups."""
    nodes = len(tree.tokens)
    longest_prefix = max(prefix_lengths)
    length = max(row.length for row in rows)
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.zeros_like(tokens)
    visible = np.zeros((len(rows), length, longest_prefix + length), dtype=np.bool_)
    # A pad sees itself: attention to nothing at all would be NaN.
    visible[:, range(length), range(longest_prefix, longest_prefix + length)] = True
    places: list[tuple[int, int, int]] = []
    for r, row in enumerate(rows):
        prefix = prefix_lengths[row.group]
        start = 0
        for tail in row.tails:
            middle = start + len(tail.tokens)
            end = middle + nodes
            tokens[r, start:end] = [*tail.tokens, *tree.tokens]
            positions[r, start:middle] = prefix + np.arange(middle - start)
            positions[r, middle:end] = prefix + middle - start - 1 + tree.depth
            visible[r, start:end, :prefix] = True
            own = visible[r, start:end, longest_prefix + start : longest_prefix + end]
            own[:, : middle - start] = np.tri(end - start, middle - start, dtype=np.bool_)
            own[middle - start :, middle - start :] = tree.visible
            places.append((tail.prompt, r, middle - 1))
            start = end
    prompts, where, last = np.array(places, dtype=np.int64).T
    return Layout(
        tokens, positions, visible, prompts, where[:, None], last[:, None] + np.arange(1 + nodes)
    )
