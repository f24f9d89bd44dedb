"""Scoring as slow and plain as it can be."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import Prompt
from asyndbt_mpi.llm.transformers import TransformersModel


@torch.inference_mode()
def naive(
    model: TransformersModel, prompts: Sequence[Prompt], labels: Sequence[str]
) -> NDArray[np.float64]:
    """One pass for each prompt and label over the whole text, with all logits.

    What all these texts begin with has no say in it. A label that begins another one counts
    together with the first token of the blank line that ends it in a demonstration.
    """
    network = model._network
    found = np.empty((len(prompts), len(labels)))
    for i, prompt in enumerate(prompts):
        text = prompt.context + prompt.query
        wholes = [whole_text(model, text + label) for label in labels]
        begun = [any(w != own and w[: len(own)] == own for w in wholes) for own in wholes]
        for u, label in enumerate(labels):
            if begun[u]:
                ended = whole_text(model, text + label + "\n\n" + text[0])
                wholes[u] = ended[: len(wholes[u]) + 1]
        everyone = zip(*wholes, whole_text(model, text), strict=False)
        start = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, everyone))
        for u, whole in enumerate(wholes):
            logits = network(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            places = range(start - 1, len(whole) - 1)
            found[i, u] = float(logits[places, whole[start:]].sum())
    total: NDArray[np.float64] = found - np.logaddexp.reduce(found, axis=1, keepdims=True)
    return total


def whole_text(model: TransformersModel, text: str) -> list[int]:
    """Its tokens behind one <s>."""
    start = model._tokenizer.bos_token_id
    own = tokens(model, text)
    return own if own[:1] == [start] else [start, *own]


def tokens(model: TransformersModel, text: str) -> list[int]:
    return list(model._tokenizer(text, add_special_tokens=False)["input_ids"])
