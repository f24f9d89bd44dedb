"""Is a loaded model the one that was saved?  And do two processes hold the same one?"""

import json
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from asyndbt_mpi.llm.base import ModelError

NAMED = 3
"""Keys of weights that an error names."""

PREFIXES = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "base_model.model.": "PEFT",
}
"""What wrappers put before the keys of what they wrap."""

BLOCKS, BLOCK = 16, 32
"""A weight is told by so many blocks, evenly spread, of so many numbers each."""


def check_whole(network: Any, info: Mapping[str, Any]) -> None:
    """Refuse a network with a weight that no file had, or a file with weights it has no use for.

    Parameters
    ----------
    info : what ``from_pretrained(..., output_loading_info=True)`` tells

    Raises
    ------
    ModelError
        Which keys, and what to do; the model's name is the caller's to add.
    """
    missing, unused = info["missing_keys"], info["unexpected_keys"]
    shapes = [each[0] for each in info["mismatched_keys"]]
    architecture = _saved_as(network)
    if architecture:
        raise ModelError(
            f"it was saved as {architecture}, which is no causal language model: give the model"
            " that it was made from"
        )
    for prefix, wrapper in PREFIXES.items():
        if any(key.startswith(prefix) for key in unused):
            raise ModelError(
                f"its weights are named as {wrapper} names them ({_named(unused)}): save what is"
                f" within the wrapper, or take {prefix!r} off their names"
                + (" (PEFT: merge_and_unload)" if wrapper == "PEFT" else "")
            )
    for keys, what in (
        (missing, "there are no weights for"),
        (shapes, "weights of another shape for"),
        (unused, "its folder has weights that the model does not use:"),
    ):
        if keys:
            raise ModelError(f"{what} {_named(keys)}: fetch or save it again, as a whole")
    if info["error_msgs"]:
        raise ModelError(" ".join(str(info["error_msgs"][0]).split()))


def _named(keys: Collection[str]) -> str:
    """The first keys, and how many more there are."""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(sorted(keys)[:NAMED]) + more


def _saved_as(network: Any) -> str | None:
    """The class that the weights were saved from, if it is one of transformers' without a head."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) | {type(network).__name__}
    for name in network.config.architectures or ():
        if name not in causal and hasattr(transformers, name):
            return str(name)
    return None


def digest(network: Any, tokenizer: Any) -> str:
    """What tells the model in memory from others: 32 hexadecimal digits.

    Of its weights' names, shapes and types and of some blocks of each, its configuration, and
    what the tokenizer makes of each token.
    """
    found = blake2b(digest_size=16)
    config = network.config.to_diff_dict()
    for passing in ("_name_or_path", "transformers_version", "architectures"):
        config.pop(passing, None)
    found.update(json.dumps(config, sort_keys=True, default=str).encode())
    found.update(_vocabulary(tokenizer).encode())
    for name, weight in sorted(network.named_parameters()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().reshape(-1)
        step = max(BLOCK, len(flat) // BLOCKS)
        starts = [*range(0, len(flat), step), max(0, len(flat) - BLOCK)]
        blocks = [flat[start : start + BLOCK].float().numpy() for start in starts]
        found.update(np.concatenate(blocks).tobytes())
    return found.hexdigest()


def _vocabulary(tokenizer: Any) -> str:
    """All that decides on a text's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokens = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    return f"{tokenizer('a')['input_ids']} {tokens}"
