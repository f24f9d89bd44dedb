"""One pass of the network for each whole text: what every other way to score must equal."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asyndbt_mpi.llm.local.labels import LabelTree, label_tree, normalised
from asyndbt_mpi.llm.local.tokens import Tokens


class PlainReader:
    """Reads prompts one by one, with nothing shared between them.

    Parameters
    ----------
    network : a causal language model of transformers, on ``device``
    apart : every label is read to its end, by a pass of its own: for networks to which a text is
        another one as it gets longer
    """

    def __init__(self, network: Any, device: torch.device, apart: bool = False) -> None:
        self._apart = apart
        self._network = network
        self._device = device
        self._keeps = "logits_to_keep" in inspect.signature(network.forward).parameters

    def log_probabilities(
        self, prompts: Sequence[Tokens], labels: Sequence[Sequence[int]]
    ) -> NDArray[np.float64]:
        """Those of the labels (n, U), given as tokens, normalised over them."""
        if self._apart:
            return normalised(
                np.array([[self._whole(p, label) for label in labels] for p in prompts])
            )
        tree = label_tree(labels)
        return tree.log_probabilities(self.steps(prompts, tree))

    def passes(self, labels: Sequence[Sequence[int]]) -> list[int]:
        """The tokens behind the prompt in each pass over it."""
        if self._apart:
            return list(map(len, labels))
        return list(map(len, label_tree(labels).paths()))

    def tokens(self, prompts: Sequence[Tokens], labels: Sequence[Sequence[int]]) -> int:
        """Tokens that go through the network."""
        behind = self.passes(labels)
        return sum(len(behind) * len(prompt) + sum(behind) for prompt in prompts)

    def steps(self, prompts: Sequence[Tokens], tree: LabelTree) -> NDArray[np.float64]:
        """Log-probabilities (n, E) of the labels' steps after each prompt."""
        steps = np.empty((len(prompts), len(tree.step_token)))
        for row, prompt in enumerate(prompts):
            for path in tree.paths():
                predicted = self._predicted([*prompt, *tree.tokens[path].tolist()], len(path) + 1)
                # Where each step is read off: at the prompt's end or behind a node of the path.
                place = {0: 0} | {node + 1: n for n, node in enumerate(path, start=1)}
                for step, source in enumerate(tree.step_source.tolist()):
                    if source in place:
                        token = int(tree.step_token[step])
                        steps[row, step] = predicted[place[source], token]
        return steps

    def whole(self, prompt: Tokens, labels: Sequence[Sequence[int]]) -> list[float]:
        """Log-probabilities of the ``labels`` behind the ``prompt``, each read at once with it.

        Those of one token are read off a single pass, which has the first of them at its end.
        """
        alone = [label for label in labels if len(label) == 1]
        if self._apart or len(alone) < 2:
            return [self._whole(prompt, label) for label in labels]
        predicted = self._predicted([*prompt, *alone[0]], 2)[0]
        return [
            float(predicted[label[0]]) if len(label) == 1 else self._whole(prompt, label)
            for label in labels
        ]

    def _whole(self, prompt: Tokens, label: Sequence[int]) -> float:
        """Log-probability of the ``label`` behind the ``prompt``, both read at once."""
        predicted = self._predicted([*prompt, *label], len(label) + 1)[:-1]
        return float(predicted[range(len(label)), list(label)].sum())

    @torch.inference_mode()
    def _predicted(self, tokens: Tokens, last: int) -> torch.Tensor:
        """Log-probabilities (last, N) of all tokens behind each of the ``last`` ones."""
        keep = {"logits_to_keep": last} if self._keeps else {}
        sequence = torch.tensor([tokens], device=self._device)
        logits = self._network(sequence, use_cache=False, **keep).logits[0, -last:]
        predicted: torch.Tensor = logits.float().log_softmax(-1).cpu()
        return predicted
