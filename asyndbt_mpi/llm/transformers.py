"""A causal language model that runs in this process, by Hugging Face transformers."""

import gc
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import LABEL_TOKENS, LabelError, ModelError, Prompt, Scores, Written
from asyndbt_mpi.llm.checkpoint import load
from asyndbt_mpi.llm.local.context import positions
from asyndbt_mpi.llm.local.device import (
    bind,
    choose,
    describe,
    is_out_of_memory,
    memory_for,
    processor_has,
)
from asyndbt_mpi.llm.local.labels import LabelTree, label_tree, normalised
from asyndbt_mpi.llm.local.packed import (
    PackedReader,
    Reading,
    Unpackable,
    attention_windows,
    rotations_move,
)
from asyndbt_mpi.llm.local.packing import Group, group_by_context
from asyndbt_mpi.llm.local.plain import PlainReader
from asyndbt_mpi.llm.local.tokens import Continuation, Tokenizer, Tokens
from asyndbt_mpi.llm.local.weights import digest
from asyndbt_mpi.llm.local.writing import Continued, GreedyWriter

T = TypeVar("T")

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

NOTHING = (0, 0, 0, -(2**30))
"""Compared so far: the widest pass, the longest prompt, the longest label, less the shortest."""

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far a label's log-probability may be from that of one pass for each whole text, in nats:
what rounding alone comes to."""

FIRST_PROMPTS = [[3, 1, 4, 1, 5], [3, 1, 4, 9, 2, 6]]
FIRST_LABELS = [[5, 3], [8]]
"""Tokens that every model has, to look at a model before there are prompts."""


class TransformersModel:
    """Scores labels with a causal language model.

    The log-probability of a label is that of its tokens behind the prompt's, both tokenised as
    one text (see `tokens`), normalised over the labels.  What prompts of one context share goes
    through the network once, and the rest side by side, where that gives the same numbers as one
    pass for each whole text: this is compared whenever a pass is wider, a prompt longer or shorter
    or a label longer than what was compared before.  Where it does not, every prompt is read by
    itself, with a warning; a model for which that is wrong, too, is refused.

    Parameters
    ----------
    model : str
        A hub id, a folder, a ``.gguf`` file or ``smollm2-135m-instruct``.
    device : str
        See `asyndbt_mpi.llm.local.device.choose`.
    precision : str
        float32, bfloat16 or float16.
    max_tokens_per_batch : int
        Positions, pads and shared prefixes included, that one pass may attend to: bounds memory.
        Halved for good when the device's memory does not suffice.
    threads : int, optional
        Of torch on the CPU, for the whole process; None leaves them as they are.
    local_rank : int
        Number of this process among those of its node that load a model.
    sharing : int
        How many of them share this one's GPU, itself included.

    Attributes
    ----------
    digest : str
        Of the weights, the configuration and the tokenizer: see `weights.digest`.

    Raises
    ------
    ModelError
        The model or the device cannot be found, the model cannot be loaded as a whole, does not
        fit into memory, or is none whose labels can be scored.
    ValueError
        The precision is unknown, or a number is not positive.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        precision: str = "float32",
        max_tokens_per_batch: int = 4096,
        threads: int | None = None,
        local_rank: int = 0,
        sharing: int = 1,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch is {max_tokens_per_batch}, not positive")
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = model
        self.at_once: int | None = None
        self.max_tokens_per_batch = max_tokens_per_batch
        self._dtype = PRECISIONS[precision]
        self._device, self._sharing = choose(device, local_rank), sharing
        if self._dtype == torch.float32:
            # Some containers switch TF32 on, which keeps 10 of the mantissa's 23 bits.
            torch.set_float32_matmul_precision("highest")
        elif self._device.type == "cpu":
            _warn_of_slow_arithmetic(precision)
        network, self._tokenizer = load(model, self._dtype)
        self.digest = digest(network, self._tokenizer)
        try:
            self._tokens = Tokenizer(self._tokenizer)
        except ModelError as error:
            raise ModelError(f"model {model!r}: {error}") from error
        self._longest = positions(network.config)
        self._kind = type(network).__name__
        self._checked_labels: list[str] | None = None
        self._longest_label = 0
        self.description = f"{model}, {describe(self._device, sharing)}, {precision}"
        self._merging_told = False
        self._compared: tuple[int, ...] = NOTHING
        # Why prompts are read one by one, until it is told; and how often each is read for labels
        # of several tokens.
        self._why_plain = ""
        self._passes = 1
        with memory_for(f"model {model!r}", self._device, sharing):
            bind(self._device, sharing)
            self._network = network.eval().to(self._device)
            moves = rotations_move(network.config.get_text_config())
            self._plain = PlainReader(self._network, self._device, apart=moves)
            bound = BOUNDS[self._dtype]
            self._writer = GreedyWriter(self._network, self._tokenizer, self._device, bound, moves)
            self._packed = self._packed_reader()
            self._score(FIRST_PROMPTS, ["", ""], FIRST_LABELS)
        self._compared = NOTHING  # of the run's own prompts

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `asyndbt_mpi.llm.base.LanguageModel`; equal prompts are scored once.

        Raises
        ------
        ModelError
            A prompt is longer than the model reads, or not even one fits into memory.
        """
        contexts: dict[str, str] = {}
        for prompt in prompts:
            contexts.setdefault(prompt.context + prompt.query, prompt.context)
        if not contexts:
            return Scores(np.empty((0, len(labels))), calls=0, prompt_tokens=0)
        texts = list(contexts)
        self._check_labels(labels)
        sequences = self._tokenise(texts, self._longest_label, "its label")
        continuations = self._tokens.continuations(texts, sequences, labels)
        self._warn_of_merging(texts, continuations)
        scores = np.empty((len(texts), len(labels)))
        tokens = 0
        # Nearly always the labels have the same tokens behind all prompts.
        for behind in dict.fromkeys(each.labels for each in continuations):
            some = [n for n, each in enumerate(continuations) if each.labels == behind]
            own = [sequences[n][: len(sequences[n]) - continuations[n].back] for n in some]
            of_these = [contexts[texts[n]] for n in some]
            scores[some], read = self._score(own, of_these, behind)
            tokens += read
            if self._why_plain:
                self._warn_of_plain_passes(own, of_these, behind)
        number = {text: n for n, text in enumerate(texts)}
        order = [number[prompt.context + prompt.query] for prompt in prompts]
        return Scores(scores[order], calls=len(texts), prompt_tokens=tokens)

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `asyndbt_mpi.llm.base.LanguageModel`; equal prompts are continued once.

        Raises
        ------
        ModelError
            A prompt is longer than the model reads, with all that may be written, or not even one
            fits into memory.
        """
        if most_tokens < 1:
            raise ValueError(f"most_tokens is {most_tokens}, not positive")
        texts = list(dict.fromkeys(prompts))
        if not texts:
            return Written([], [], [], calls=0, prompt_tokens=0, completion_tokens=0)
        sequences = self._tokenise(texts, most_tokens, f"the {most_tokens} that may follow")
        left = sorted(zip(sequences, texts, strict=True), key=lambda each: -len(each[0]))
        found: dict[str, Continued] = {}
        while left:
            longest_first = [tokens for tokens, _ in left]
            some = self._within_memory(partial(self._writer.write, longest_first, most_tokens))
            found |= {text: each for (_, text), each in zip(left, some, strict=False)}
            left = left[len(some) :]
        return Written(
            [found[prompt].text for prompt in prompts],
            [found[prompt].tokens for prompt in prompts],
            [found[prompt].cut for prompt in prompts],
            calls=len(texts),
            prompt_tokens=sum(map(len, sequences)),
            completion_tokens=sum(each.tokens for each in found.values()),
        )

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """Every prompt is one call at the most."""
        return prompts

    def longest(self, text: str) -> int:
        """Tokens of ``text``, and `LABEL_TOKENS` for the labels' own, in every pass over it."""
        return self._passes * (len(self._tokens([text])[0]) + LABEL_TOKENS)

    # ------------------------------------------------------------------------------------ tokens

    def _label_tokens(self, label: str) -> list[int]:
        """Those of a label by itself, which it need not have behind a prompt."""
        return self._tokens.encode([label])[0]

    def _check_labels(self, labels: Sequence[str]) -> None:
        if list(labels) == self._checked_labels:
            return
        if not labels:
            raise LabelError("there are no labels")
        sequences = [self._label_tokens(label) for label in labels]
        for number, (label, tokens) in enumerate(zip(labels, sequences, strict=True)):
            if not tokens:
                raise LabelError(f"label {number} has no tokens")
            if self._tokenizer.unk_token_id in tokens:
                raise ModelError(
                    f"label {label!r} has characters that the tokenizer of model {self.name!r}"
                    " does not know: use other task.labels"
                )
            if len(tokens) > LABEL_TOKENS:
                raise ModelError(
                    f"label {label!r} has {len(tokens)} tokens, but at most {LABEL_TOKENS} are"
                    " allowed: use shorter task.labels"
                )
            self._check_vocabulary(tokens)
        self._checked_labels = list(labels)
        self._longest_label = max(map(len, sequences))

    def _tokenise(self, texts: list[str], behind: int, what: str) -> list[Tokens]:
        """Token sequences of the texts, which leave room for ``behind`` tokens more: ``what``."""
        sequences = self._tokens(texts)
        if not all(sequences):
            raise ValueError("a prompt has no tokens")
        needed = max(map(len, sequences)) + behind
        if self._longest is not None and needed > self._longest:
            raise ModelError(
                f"a prompt has {needed} tokens with {what}, but model {self.name!r} reads at"
                f" most {self._longest}"
            )
        self._check_vocabulary([max(map(max, sequences))])
        return sequences

    def _check_vocabulary(self, tokens: Tokens) -> None:
        rows = self._network.get_input_embeddings().weight.shape[0]
        if max(tokens) >= rows:
            raise ModelError(
                f"model {self.name!r} has {rows} tokens, but its tokenizer returns number"
                f" {max(tokens)}: they do not belong together"
            )

    # ------------------------------------------------------------------------------------ scores

    def _score(
        self, prompts: list[Tokens], contexts: list[str], labels: Sequence[Sequence[int]]
    ) -> tuple[NDArray[np.float64], int]:
        """Log-probabilities (n, U) of labels, given as tokens, and the tokens that were read."""
        tree = label_tree(labels)
        if self._packed is not None:
            groups = group_by_context(contexts, prompts)
            reading = self._read_packed(self._packed, groups, len(prompts), tree)
            if reading is not None:
                scores = tree.log_probabilities(reading.steps)
                if self._is_right(scores, prompts, labels, reading.width, reading.furthest):
                    return scores, _packed_tokens(groups, tree)
                self._read_plainly("a shared context changes its log-probabilities")
        self._passes = max(self._passes, len(self._plain.passes(labels)))
        with memory_for("a single prompt", self._device, self._sharing):
            scores = self._plain.log_probabilities(prompts, labels)
        if not self._is_right(scores, prompts, labels):
            raise ModelError(
                f"model {self.name!r} ({self._kind}) cannot be used: its output for a token"
                " depends on later tokens, or is not reproducible"
            )
        return scores, self._plain.tokens(prompts, labels)

    def _read_packed(
        self, packed: PackedReader, groups: list[Group], count: int, tree: LabelTree
    ) -> Reading | None:
        """None if the network does not take such passes, wide as they are."""
        try:
            return self._within_memory(partial(packed.read, groups, count, tree))
        except ModelError:
            raise
        except Exception as error:  # whatever a network raises of masks and caches
            if "CUDA error" in str(error):
                raise
            self._read_plainly(f"it cannot share contexts ({type(error).__name__})")
            return None

    def _within_memory(self, run: Callable[[int], T]) -> T:
        """``run`` with `max_tokens_per_batch`; in smaller batches if memory runs out."""
        given = self.max_tokens_per_batch
        while True:
            try:
                done = run(self.max_tokens_per_batch)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.max_tokens_per_batch == 1:
                    with memory_for("a single prompt", self._device, self._sharing):
                        raise
            # Out of the except clause: the error holds the tensors that were too many, and so may
            # a cycle that it is part of.
            gc.collect()
            torch.cuda.empty_cache()
            self.max_tokens_per_batch //= 2
        if self.max_tokens_per_batch < given:
            warnings.warn(
                f"out of memory on {describe(self._device, self._sharing)}: continuing with"
                f" max_tokens_per_batch = {self.max_tokens_per_batch}",
                stacklevel=3,
            )
        return done

    # ------------------------------------------------------------------------------------- check

    def _is_right(
        self,
        scores: NDArray[np.float64],
        prompts: list[Tokens],
        labels: Sequence[Sequence[int]],
        width: int = 0,
        furthest: int = 0,
    ) -> bool:
        """Whether ``scores`` (n, U) are those of one pass for each whole text.

        Compared are the prompt number ``furthest`` if the pass was wider than any compared before,
        the longest one if it is longer or a label is, and the shortest one if it is shorter.

        Raises
        ------
        ModelError
            A whole text has no finite log-probability.
        """
        lengths = [len(prompt) for prompt in prompts]
        # Of equally long ones the furthest, which is compared anyway.
        longest, shortest = (
            furthest if lengths[furthest] == length else lengths.index(length)
            for length in (max(lengths), min(lengths))
        )
        reach = width, lengths[longest], max(map(len, labels)), -lengths[shortest]
        of_each = furthest, longest, longest, shortest
        both = zip(of_each, reach, self._compared, strict=True)
        compared = sorted({number for number, new, old in both if new > old})
        if not compared:
            return True
        first = scores[furthest]
        # The likeliest label, the least likely one and, if that is longer, the longest.
        some, longest_label = {int(first.argmax()), int(first.argmin())}, max(map(len, labels))
        if all(len(labels[u]) < longest_label for u in some):
            some.add([*map(len, labels)].index(longest_label))
        chosen = sorted(some)
        whole = self._whole_texts([prompts[n] for n in compared], [labels[u] for u in chosen])
        ours = normalised(scores[np.ix_(compared, chosen)])
        # Each token adds an error of its own.
        bound = BOUNDS[self._dtype] * np.sqrt(max(map(len, labels)))
        if not np.abs(ours - whole).max() <= bound:  # NaN is a difference, too
            return False
        self._compared = tuple(map(max, reach, self._compared))
        return True

    def _whole_texts(
        self, prompts: list[Tokens], labels: list[Sequence[int]]
    ) -> NDArray[np.float64]:
        """Log-probabilities (n, U), by passes over whole texts: see `PlainReader.whole`."""
        with memory_for("a single prompt", self._device, self._sharing):
            whole = [self._plain.whole(prompt, labels) for prompt in prompts]
        if not np.isfinite(whole).all():
            hint = "" if self._dtype == torch.float32 else "; use another llm.precision"
            raise ModelError(
                f"model {self.name!r} ({self._kind}) gives a log-probability that is not finite in"
                f" {str(self._dtype).removeprefix('torch.')}{hint}"
            )
        return normalised(np.array(whole))

    def _packed_reader(self) -> PackedReader | None:
        try:
            self._windows = attention_windows(self._network.config.get_text_config())
            return PackedReader(self._network, self._windows, self._dtype, self._device)
        except Unpackable as error:
            self._read_plainly(str(error))
            return None

    def _read_plainly(self, why: str) -> None:
        self._packed = None
        self._why_plain = why
        self._compared = NOTHING

    # ---------------------------------------------------------------------------------- warnings

    def _warn_of_plain_passes(
        self, prompts: list[Tokens], contexts: list[str], labels: Sequence[Sequence[int]]
    ) -> None:
        shared = _packed_tokens(group_by_context(contexts, prompts), label_tree(labels))
        warnings.warn(
            f"model {self.name!r} ({self._kind}): every prompt is read separately, because"
            f" {self._why_plain}; this is correct, but reads"
            f" {self._plain.tokens(prompts, labels) / shared:.1f} times as many tokens",
            stacklevel=3,
        )
        self._why_plain = ""

    def _warn_of_merging(self, texts: list[str], continuations: list[Continuation]) -> None:
        merged = [text for text, each in zip(texts, continuations, strict=True) if each.back]
        if not merged or self._merging_told:
            return
        self._merging_told = True
        end = f", which ends in {merged[0][-1]!r}" if merged[0][-1].isspace() else ""
        warnings.warn(
            f"the end of a prompt and the beginning of a label are one token of model"
            f" {self.name!r}: labels are scored from that token on; it is better to let a label"
            f" begin with the space than to let task.template end with it{end}",
            stacklevel=3,
        )


def _packed_tokens(groups: list[Group], tree: LabelTree) -> int:
    """Tokens that go through the network, without pads."""
    return sum(
        len(group.prefix) + sum(len(tail.tokens) + len(tree.tokens) for tail in group.tails)
        for group in groups
    )


def _warn_of_slow_arithmetic(precision: str) -> None:
    """Without instructions for half of the bits, a processor takes ten times as long."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return  # an older torch, which cannot tell
    if not processor_has({"bfloat16": "bf16", "float16": "fp16"}[precision]):
        warnings.warn(
            f"this processor has no instructions for {precision}: float32 will be faster",
            stacklevel=3,
        )
