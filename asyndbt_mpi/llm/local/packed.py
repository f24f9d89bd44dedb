"""Many prompts in one pass: what they share is read once, the rest side by side.

See `packing` for the layout.  Not every architecture allows it: masks that count columns, states
that are no keys and values, or logits that are more than a product make other numbers of it.
`PackedReader` refuses what it can see; whoever uses it has to compare (see `transformers`).
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from asyndbt_mpi.llm.local.device import is_out_of_memory
from asyndbt_mpi.llm.local.labels import LabelTree
from asyndbt_mpi.llm.local.packing import (
    ROW_TOKENS,
    Group,
    Layout,
    Row,
    batches,
    fill_rows,
    lay_out,
)

KeysAndValues: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer, (G, heads, P, size)."""

HEAD_PROMPTS = 64
"""Prompts whose vocabulary logits, behind the first token of a label, are in memory at one time."""

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Of a logit, relative to the largest; a tenth of it of their ratios on average."""

MOVING_ROTATIONS = {"longrope", "dynamic"}
"""Kinds of rotary position that depend on the longest prompt of a pass."""

PROBE = [3, 1, 4, 1, 5, 9, 2, 6]
"""Tokens by which the output layer is looked at."""


class Unpackable(Exception):
    """The architecture cannot be read in this way; says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probabilities (n, E) of the labels' steps after each prompt, and how far they reach.

    The widest pass had ``width`` columns, prefix included, of which prompt number ``furthest``
    had the last ones.
    """

    steps: NDArray[np.float64]
    width: int
    furthest: int


class PackedReader:
    """Reads the groups of `packing`.

    Parameters
    ----------
    network : a causal language model of transformers, on ``device`` and of type ``dtype``
    windows : of its layers, see `attention_windows`

    Raises
    ------
    Unpackable
        Its output is of a kind that is not known here.
    """

    def __init__(
        self,
        network: Any,
        windows: dict[str, int | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._body = network.base_model
        self._head = network.get_output_embeddings()
        if self._body is network or self._head is None:
            raise Unpackable("it has no separate body and output layer")
        self._dtype, self._device = dtype, device
        config = network.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._windows = windows
        self._scale = self._scale_of(network)

    @torch.inference_mode()
    def read(self, groups: list[Group], count: int, tree: LabelTree, limit: int) -> Reading:
        """Read the groups' ``count`` prompts, at most ``limit`` positions in one pass."""
        steps = np.empty((count, len(tree.step_token)))
        width = furthest = 0
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
                if layout.visible.shape[2] > width:
                    width = layout.visible.shape[2]
                    furthest = int(layout.prompts[layout.columns[:, -1].argmax()])
        return Reading(steps, width, furthest)

    def _read_prefixes(self, prefixes: list[list[int]]) -> KeysAndValues:
        """Keys and values of prefixes, padded on the right, where causal attention sees no pad."""
        longest = max(map(len, prefixes))
        tokens = [[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes]
        # Not made from the config: layers with a sliding window would drop what is before it.
        cache = DynamicCache()
        self._body(torch.tensor(tokens, device=self._device), cache=cache, use_cache=True)
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
            cache=cache,
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
        steps = self._logits(steps)
        if len(tree.tokens):
            totals = [
                self._logits(self._head(some).float()).logsumexp(-1)
                for some in torch.split(hidden[:, 1:], HEAD_PROMPTS)
            ]
            nothing = steps.new_zeros(len(steps), 1)
            steps = steps - torch.cat([nothing, torch.cat(totals)], dim=1)[:, source]
        found: NDArray[np.float64] = steps.double().cpu().numpy()
        return found

    def _logits(self, products: torch.Tensor) -> torch.Tensor:
        """Logits of what the output layer gives."""
        scaled = products * self._scale
        if self._softcap is None:
            return scaled
        return self._softcap * torch.tanh(scaled / self._softcap)

    @torch.inference_mode()
    def _scale_of(self, network: Any) -> float:
        """What the network multiplies the output layer's products by: 1 but for some families."""
        rows = self._head.weight.shape[0]
        tokens = torch.tensor([[token % rows for token in PROBE]], device=self._device)
        logits = network(tokens, use_cache=False).logits.double()
        try:
            product = self._head(self._body(tokens, use_cache=False).last_hidden_state).double()
            if self._softcap is not None:
                product = self._softcap * torch.tanh(product / self._softcap)
            scale = float((logits * product).sum() / product.square().sum())
            rest = float((logits - scale * product).abs().max() / logits.abs().max())
        except Exception as error:  # whatever a network raises whose parts fit in another way
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise Unpackable("its output layer needs more than the last states") from error
        rounding = ROUNDING[self._dtype]
        if not rest <= rounding:
            raise Unpackable("its logits are not just a product with its output layer")
        return 1.0 if self._softcap or abs(scale - 1) <= rounding / 10 else scale

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def rotations_move(config: Any) -> bool:
    """Whether a token's rotary position depends on how much is read with it."""
    values = str(config.to_dict())
    return any(f"'rope_type': '{kind}'" in values for kind in MOVING_ROTATIONS)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Kinds of attention layer in a model, and how far each looks back (None: to the start).

    Raises
    ------
    Unpackable
        It has layers of other kinds.
    """
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise Unpackable(f"it has layers of {', '.join(sorted(unknown))}")
    if rotations_move(config):
        raise Unpackable("its rotary positions depend on the longest prompt of a pass")
    if "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
    # Without kinds of layer, all have the same mask.
    return {"full_attention": None if kinds else window}
