"""A causal language model that runs in this process, by Hugging Face transformers."""

import gc
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from asyndbt_mpi.llm.base import LABEL_TOKENS, ModelError, Prompt, Scores
from asyndbt_mpi.llm.checkpoint import load
from asyndbt_mpi.llm.device import bind, choose, describe, is_out_of_memory, memory_for
from asyndbt_mpi.llm.labels import LabelTree, label_tree
from asyndbt_mpi.llm.packing import (
    Group,
    Layout,
    Row,
    batches,
    fill_rows,
    group_by_context,
    lay_out,
)

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

KeysAndValues: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer, (G, heads, P, size)."""

ROW_TOKENS = 256
"""Tokens in a row of tails.  Attention is computed between all tokens of a row and then masked:
up to this length that costs a few percent, beyond it grows."""

HEAD_PROMPTS = 64
"""Prompts whose vocabulary logits, behind the first token of a label, are in memory at one time."""


class TransformersModel:
    """Scores labels with a causal language model.

    The log-probability of a label is that of its whole token sequence after the prompt's,
    normalised over the labels.  What prompts of one context share goes through the model once;
    the result is the same, but for rounding, as of one pass for each prompt and label.

    Parameters
    ----------
    model : str
        A hub id, a folder, a ``.gguf`` file or ``smollm2-135m-instruct``.
    device : str
        See `asyndbt_mpi.llm.device.choose`.
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

    Raises
    ------
    ModelError
        The model or the device cannot be found, the model cannot be loaded or does not fit into
        memory, or it is of a kind that cannot share contexts.
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
            raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
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
        with memory_for(f"model {model!r}", self._device, sharing):
            bind(self._device, sharing)
            self._network = network.eval().to(self._device)
        self._body = network.base_model
        self._head = network.get_output_embeddings()
        config = network.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._longest: int | None = getattr(config, "max_position_embeddings", None)
        self._windows = _attention_windows(model, config)
        self.description = f"{model}, {describe(self._device, sharing)}, {precision}"
        with memory_for(f"model {model!r}", self._device, sharing):
            self._check_shared_context()

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `asyndbt_mpi.llm.base.LanguageModel`; equal prompts are scored once.

        Raises
        ------
        ModelError
            A prompt is longer than the model reads, or not even one fits into memory.
        """
        tree = label_tree([self._label_tokens(label) for label in labels])
        contexts: dict[str, str] = {}
        for prompt in prompts:
            contexts.setdefault(prompt.context + prompt.query, prompt.context)
        if not contexts:
            return Scores(np.empty((0, len(labels))), calls=0, prompt_tokens=0)
        sequences = self._tokenise(list(contexts), int(tree.depth.max(initial=0)))
        groups = group_by_context(list(contexts.values()), sequences)
        scores = tree.log_probabilities(self._within_memory(groups, len(contexts), tree))
        number = {text: n for n, text in enumerate(contexts)}
        order = [number[prompt.context + prompt.query] for prompt in prompts]
        return Scores(scores[order], calls=len(contexts), prompt_tokens=_tokens(groups, tree))

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """Every prompt is one call at the most."""
        return prompts

    def longest(self, text: str) -> int:
        """Tokens of ``text``, and `LABEL_TOKENS` for the labels' own."""
        return len(self._tokenizer(text, verbose=False)["input_ids"]) + LABEL_TOKENS

    # ------------------------------------------------------------------------------------ tokens

    def _label_tokens(self, label: str) -> list[int]:
        tokens: list[int] = self._tokenizer(label, add_special_tokens=False)["input_ids"]
        return tokens

    def _tokenise(self, texts: list[str], behind: int) -> list[list[int]]:
        """Token sequences of the texts, which leave room for ``behind`` tokens more."""
        # Not verbose: it would warn of what is an error below.
        sequences: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        lengths = [len(sequence) for sequence in sequences]
        if not all(lengths):
            raise ValueError("a prompt has no tokens")
        needed = max(lengths) + behind
        if self._longest is not None and needed > self._longest:
            raise ModelError(
                f"a prompt has {needed} tokens with its label, and model {self.name!r} reads"
                f" {self._longest} at most"
            )
        return sequences

    # ------------------------------------------------------------------------------------- model

    def _within_memory(self, groups: list[Group], count: int, tree: LabelTree) -> NDArray[Any]:
        """`_steps`, in smaller batches if memory runs out."""
        given = self.max_tokens_per_batch
        while True:
            try:
                steps = self._steps(groups, count, tree)
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
                f"out of memory on {describe(self._device, self._sharing)}: going on with"
                f" max_tokens_per_batch = {self.max_tokens_per_batch}",
                stacklevel=3,
            )
        return steps

    @torch.inference_mode()
    def _steps(self, groups: list[Group], count: int, tree: LabelTree) -> NDArray[np.float64]:
        """Log-probabilities (count, E) of the labels' steps after each prompt."""
        limit = self.max_tokens_per_batch
        steps = np.empty((count, len(tree.step_token)))
        for some in batches(groups, lambda group: len(group.prefix), 0, limit):
            prefixes = [group.prefix for group in some]
            longest = max(map(len, prefixes))
            memory = self._read_prefixes(prefixes) if longest else None
            rows = [
                row
                for number, group in enumerate(some)
                for row in fill_rows(number, group, len(tree.tokens), min(ROW_TOKENS, limit))
            ]
            for batch in batches(rows, lambda row: row.length, longest, limit):
                layout = lay_out(batch, list(map(len, prefixes)), tree)
                hidden = self._read_rows(batch, layout, memory)
                steps[layout.prompts] = self._read_off(hidden, tree)
        return steps

    def _read_prefixes(self, prefixes: list[list[int]]) -> KeysAndValues:
        """Keys and values of prefixes, padded on the right, where causal attention sees no pad."""
        longest = max(map(len, prefixes))
        tokens = [[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes]
        # Not made from the config: layers with a sliding window would drop what is before it.
        cache = DynamicCache()
        self._body(torch.tensor(tokens, device=self._device), past_key_values=cache, use_cache=True)
        layers: list[Any] = cache.layers  # of a common base that has neither keys nor values
        return [(layer.keys, layer.values) for layer in layers]

    def _read_rows(
        self, rows: list[Row], layout: Layout, memory: KeysAndValues | None
    ) -> torch.Tensor:
        """Hidden states (n, 1 + K, size) of the prompts' ends and of the labels' nodes."""
        cache = None
        if memory is not None:
            groups = torch.tensor([row.group for row in rows], device=self._device)
            cache = DynamicCache([(keys[groups], values[groups]) for keys, values in memory])
        output = self._body(
            self._tensor(layout.tokens),
            attention_mask=self._mask(layout),
            position_ids=self._tensor(layout.positions),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[self._tensor(layout.rows), self._tensor(layout.columns)]

    def _mask(self, layout: Layout) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is added to the attention scores (R, 1, L, P + L), of each kind of layer."""
        masks = {}
        for kind, window in self._windows.items():
            visible = layout.visible
            if window is not None:
                before = np.arange(visible.shape[2] - visible.shape[1])
                before = np.broadcast_to(before, (len(visible), len(before)))
                keys = np.concatenate([before, layout.positions], axis=1)
                visible = visible & (layout.positions[:, :, None] - keys[:, None, :] < window)
            zero = torch.zeros((), dtype=self._dtype, device=self._device)
            # The least finite number: minus infinity gives NaN in some attention kernels.
            hide = torch.finfo(self._dtype).min
            masks[kind] = torch.where(self._tensor(visible)[:, None], zero, hide)
        return masks if "sliding_attention" in masks else masks["full_attention"]

    def _read_off(self, hidden: torch.Tensor, tree: LabelTree) -> NDArray[np.float64]:
        """Log-probabilities (n, E) of the labels' steps from hidden states (n, 1 + K, size).

        Those at the prompt's end are short of a constant for each prompt, which drops out when
        they are normalised over the labels: only the labels' rows of the output matrix are
        needed. Behind it, every token counts.
        """
        source, token = self._tensor(tree.step_source), self._tensor(tree.step_token)
        rows = self._head.weight[token].float()
        steps = torch.einsum("nes,es->ne", hidden[:, source].float(), rows)
        if self._head.bias is not None:
            steps = steps + self._head.bias[token].float()
        steps = self._capped(steps)
        if len(tree.tokens):
            totals = [
                self._capped(self._head(some).float()).logsumexp(-1)
                for some in torch.split(hidden[:, 1:], HEAD_PROMPTS)
            ]
            nothing = steps.new_zeros(len(steps), 1)
            steps = steps - torch.cat([nothing, torch.cat(totals)], dim=1)[:, source]
        found: NDArray[np.float64] = steps.double().cpu().numpy()
        return found

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        if self._softcap is None:
            return logits
        return self._softcap * torch.tanh(logits / self._softcap)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    # ------------------------------------------------------------------------------------- check

    @torch.inference_mode()
    def _check_shared_context(self) -> None:
        """See that this architecture takes shared prefixes and our masks as it should.

        Some ignore a mask of four dimensions, or scale their logits: wrong without a word.
        """
        prompts = [Prompt("one two three", " four"), Prompt("one two three", " five six")]
        labels = [" seven eight", " nine"]
        shared = self.label_log_probabilities(prompts, labels).log_probabilities
        plain = np.array(
            [
                [self._whole_sequence(prompt.context + prompt.query, label) for label in labels]
                for prompt in prompts
            ]
        )
        plain -= np.logaddexp.reduce(plain, axis=1, keepdims=True)
        difference = float(np.abs(shared - plain).max())
        # Rounding alone comes to 1e-5, or to some tenths with 8 bits of mantissa.
        if not difference < (1e-3 if self._dtype == torch.float32 else 0.5):
            raise ModelError(
                f"model {self.name!r} ({type(self._network).__name__}) cannot be used: with a"
                f" shared context its log-probabilities change by {difference:.2g}"
            )

    def _whole_sequence(self, prompt: str, label: str) -> float:
        """Log-probability of the label's tokens by a pass of its own over the whole sequence."""
        before, tokens = self._tokenise([prompt], 0)[0], self._label_tokens(label)
        sequence = torch.tensor([before + tokens], device=self._device)
        logits = self._network(sequence).logits[0, len(before) - 1 : -1].float()
        predicted = logits.log_softmax(-1)[range(len(tokens)), tokens]
        return float(predicted.sum())


def _tokens(groups: list[Group], tree: LabelTree) -> int:
    """Tokens that go through the model, without pads."""
    return sum(
        len(group.prefix) + sum(len(tail.tokens) + len(tree.tokens) for tail in group.tails)
        for group in groups
    )


def _warn_of_slow_arithmetic(precision: str) -> None:
    """Without instructions for half of the bits, a processor takes ten times as long."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return  # an older torch, which cannot tell
    name = {"bfloat16": "bf16", "float16": "fp16"}[precision]
    abilities = torch.cpu.get_capabilities()
    if not any(able for ability, able in abilities.items() if name in ability):
        warnings.warn(
            f"this processor has no instructions for {precision}: float32 will be faster",
            stacklevel=3,
        )


def _attention_windows(model: str, config: Any) -> dict[str, int | None]:
    """Kinds of attention layer in the model, and how far each looks back (None: to the start)."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelError(
            f"model {model!r} has layers of {', '.join(sorted(unknown))};"
            " only full and sliding attention can share contexts"
        )
    if "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
    # Without kinds of layer, all have the same mask.
    return {"full_attention": None if kinds else window}
