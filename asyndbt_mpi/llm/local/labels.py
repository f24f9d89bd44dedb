"""Labels of several tokens as a tree: what to push after a prompt, and what to read off.

A label's log-probability is the sum of one step for each of its tokens, and labels that begin
alike share steps.  The model therefore reads the prompt, then the distinct proper prefixes of
the labels (the nodes), each on its own branch; every step is read at the prompt's end or at a
node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelTree:
    """K nodes and E steps of U labels; node k is numbered k + 1 where 0 is the prompt's end."""

    tokens: NDArray[np.int64]
    """(K,) last token of each node's prefix."""

    depth: NDArray[np.int64]
    """(K,) length of each node's prefix, so that it stands ``depth`` after the prompt's end."""

    visible: NDArray[np.bool_]
    """(K, K): row k sees its ancestors and itself."""

    step_source: NDArray[np.int64]
    """(E,) place, 0..K, at which the step's token is predicted."""

    step_token: NDArray[np.int64]
    """(E,)"""

    label_steps: list[list[int]]
    """The steps of each of the U labels."""

    def log_probabilities(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """From those of the steps (n, E) to those of the labels (n, U), normalised over labels."""
        labels = np.stack([steps[:, own].sum(axis=1) for own in self.label_steps], axis=1)
        return normalised(labels)

    def paths(self) -> list[list[int]]:
        """The nodes from the prompt's end to each leaf; one empty path if there are no nodes."""
        leaves = np.flatnonzero(self.visible.sum(axis=0) == 1)
        # Nodes are sorted by their prefixes, so that ancestors come first.
        return [np.flatnonzero(self.visible[leaf]).tolist() for leaf in leaves] or [[]]


def normalised(log_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities (n, U) over the labels; NaN stays NaN, for whoever asked to refuse."""
    with np.errstate(invalid="ignore"):
        total = np.logaddexp.reduce(log_probabilities, axis=1, keepdims=True)
        found: NDArray[np.float64] = log_probabilities - total
    return found


def label_tree(sequences: Sequence[Sequence[int]]) -> LabelTree:
    """Build the tree of U labels, given by their token sequences, which are all different."""
    labels = [tuple(sequence) for sequence in sequences]
    prefixes = sorted({label[:n] for label in labels for n in range(1, len(label))})
    place = {(): 0} | {prefix: k for k, prefix in enumerate(prefixes, start=1)}
    steps = sorted({label[: n + 1] for label in labels for n in range(len(label))})
    number = {step: e for e, step in enumerate(steps)}
    return LabelTree(
        tokens=np.array([prefix[-1] for prefix in prefixes], dtype=np.int64),
        depth=np.array([len(prefix) for prefix in prefixes], dtype=np.int64),
        visible=np.array(
            [[below[: len(above)] == above for above in prefixes] for below in prefixes],
            dtype=np.bool_,
        ).reshape(len(prefixes), len(prefixes)),
        step_source=np.array([place[step[:-1]] for step in steps], dtype=np.int64),
        step_token=np.array([step[-1] for step in steps], dtype=np.int64),
        label_steps=[[number[label[: n + 1]] for n in range(len(label))] for label in labels],
    )
