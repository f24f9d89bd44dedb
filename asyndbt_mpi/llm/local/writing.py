"""Greedy continuations of several prompts side by side, by transformers' own `generate`."""

import warnings
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig

from asyndbt_mpi.llm.local.tokens import Tokens

COMPARED_TOKENS = 4
"""What a padded prompt is continued by, to see whether the pads change anything."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What was written behind a prompt; ``tokens`` include the one that ended it, if one did.

    ``cut``: it ended by the bound on its tokens.
    """

    text: str
    tokens: int
    cut: bool


class GreedyWriter:
    """Continues prompts with their likeliest tokens.

    Shorter prompts are padded on the left, where that gives the same log-probabilities as no pads:
    this is compared whenever there are more pads than before. Where it does not, only prompts of
    one length are side by side, with a warning.

    Parameters
    ----------
    network : a causal language model of transformers, on ``device``
        Its settings for generation are replaced: they may ask for samples, or for penalties.
    bound : how far log-probabilities may be apart by rounding, in nats
    apart : only prompts of one length are side by side: for networks to which a text is another
        one if a longer one is read with it
    """

    def __init__(
        self, network: Any, tokenizer: Any, device: torch.device, bound: float, apart: bool
    ) -> None:
        own = getattr(network, "generation_config", None)
        rows = network.get_input_embeddings().weight.shape[0]  # some name tokens beyond these
        given = tokenizer.eos_token_id, getattr(own, "eos_token_id", None)
        self._ends = sorted({end for each in given for end in _numbers(each) if 0 <= end < rows})
        pads = *_numbers(tokenizer.pad_token_id), *self._ends
        self._pad = next((pad for pad in pads if 0 <= pad < rows), 0)
        self._network, self._tokenizer = network, tokenizer
        self._device, self._bound, self._apart = device, bound, apart
        self._most_pads = 0
        settings: Any = GenerationConfig  # its constructor has no types
        network.generation_config = settings(
            do_sample=False, pad_token_id=self._pad, eos_token_id=self._ends or None
        )

    def write(self, prompts: list[Tokens], most_tokens: int, limit: int) -> list[Continued]:
        """What follows the first of the ``prompts``: as many as ``limit`` positions allow, or one.

        The longest prompts come first.
        """
        longest = len(prompts[0])
        some = prompts[: max(1, limit // (longest + most_tokens))]
        pads = longest - len(some[-1])
        if pads > self._most_pads and not self._apart:
            if self._pads_are_harmless(some[0], some[-1]):
                self._most_pads = pads
            else:
                self._apart = True
                warnings.warn(
                    f"{type(self._network).__name__}: prompts of different lengths are continued"
                    " one after another, because pads change its log-probabilities; this is"
                    " correct, but slower",
                    stacklevel=2,
                )
        if self._apart:
            some = list(takewhile(lambda prompt: len(prompt) == longest, some))
        written = self._generate(some, most_tokens).sequences[:, longest:].tolist()
        return [self._continued(*each) for each in zip(some, written, strict=True)]

    def _continued(self, prompt: Tokens, row: Tokens) -> Continued:
        """A text out of a ``row`` that goes on with pads behind its end."""
        end = next((place for place, token in enumerate(row) if token in self._ends), None)
        if end is None:
            return Continued(self._text(prompt, row), len(row), cut=True)
        return Continued(self._text(prompt, row[:end]), end + 1, cut=False)

    def _text(self, prompt: Tokens, behind: Tokens) -> str:
        # Behind the prompt, because some tokenizers drop the space that a text begins with.
        before, whole = (
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for tokens in (prompt, [*prompt, *behind])
        )
        text: str = whole[len(before) :]
        return text

    def _pads_are_harmless(self, longest: Tokens, padded: Tokens) -> bool:
        """Whether ``padded`` is continued as by itself next to the ``longest`` prompt."""
        together = self._generate([longest, padded], COMPARED_TOKENS, output_logits=True)
        alone = self._generate([padded], COMPARED_TOKENS, output_logits=True)
        beside = together.sequences[1, len(longest) :].tolist()
        itself = alone.sequences[0, len(padded) :].tolist()
        steps = zip(beside, itself, together.logits, alone.logits, strict=False)
        for token, own_token, logits, own_logits in steps:
            difference = logits[1].float().log_softmax(-1) - own_logits[0].float().log_softmax(-1)
            if not difference.abs().max() <= self._bound:  # NaN is a difference, too
                return False
            if token != own_token:  # by rounding; from here on they are different texts
                break
        return True

    def _generate(self, prompts: list[Tokens], most_tokens: int, **options: bool) -> Any:
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        tokens = [[self._pad] * n + prompt for n, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in pads]
        return self._network.generate(
            torch.tensor(tokens, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            max_new_tokens=most_tokens,
            return_dict_in_generate=True,
            **options,
        )


def _numbers(given: int | list[int] | None) -> list[int]:
    if given is None:
        return []
    return given if isinstance(given, list) else [given]
