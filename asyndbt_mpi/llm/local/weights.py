"""Is a loaded model the one that was saved?  And do two processes hold the same one?"""

import json
from collections.abc import Collection, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from asyndbt_mpi.llm.base import ModelError

NAMED = 3
"""Keys of weights that an error names."""

SINGLE = "model.safetensors"

OF_TOKENIZERS = ("tokenizer*", "*vocab*", "merges.txt", "*.model", "*.spm", "*.tiktoken", "tekken*")
"""Files of which a tokenizer has at least one."""

PREFIXES = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "base_model.model.": "PEFT",
}
"""What wrappers put before the keys of what they wrap."""

WHOLE = 1 << 16
"""Weights of so many numbers are told by all of them: norms, biases, small tables."""

BLOCKS, BLOCK = 64, 64
"""A larger one by so many blocks, evenly spread, of so many numbers each."""

SAMPLE = "It's 12 good, bad\n\n films:  naïve Ünïcode 日本語 🙂 unbelievably <s></s> aaaa"
"""What a tokenizer makes of this tells it, besides its vocabulary."""


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
            f"it was saved as {architecture}, which is not a causal language model: use the model"
            " that it was made from"
        )
    for prefix, wrapper in PREFIXES.items():
        if any(key.startswith(prefix) for key in unused):
            raise ModelError(
                f"its weights have the names of {wrapper} ({_named(unused)}): save the model inside"
                f" the wrapper, or remove {prefix!r} from their names"
                + (" (PEFT: merge_and_unload)" if wrapper == "PEFT" else "")
            )
    for keys, what in (
        (missing, "its folder has no weights for"),
        (shapes, "its folder has weights of a different shape for"),
        (unused, "its folder has weights that the model does not use:"),
    ):
        if keys:
            raise ModelError(f"{what} {_named(keys)}: download or save the whole model again")
    if info["error_msgs"]:
        raise ModelError(" ".join(str(info["error_msgs"][0]).split()))


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer, of which transformers would make an empty one.

    Raises
    ------
    ModelError
    """
    if not any(file for pattern in OF_TOKENIZERS for file in folder.glob(pattern)):
        raise ModelError(
            "no tokenizer in the folder: copy tokenizer.json (or the other files of the model's"
            " tokenizer) into it, or save it there with tokenizer.save_pretrained"
        )


def check_files(folder: Path) -> None:
    """Refuse a folder whose files may be read in several ways, or whose weights are packed numbers.

    Raises
    ------
    ModelError
        See `check_whole`.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "there is a PEFT adapter beside its weights: merge it (merge_and_unload), or remove"
            " adapter_config.json"
        )
    if (folder / SINGLE).is_file() and (folder / f"{SINGLE}.index.json").is_file():
        raise ModelError(
            f"its folder has both {SINGLE} and shards of a different one: remove either"
        )
    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" in config:
        return
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as weights:
            for key in weights.keys():  # noqa: SIM118
                kind = weights.get_slice(key).get_dtype()
                if not kind.startswith(("F", "BF")) and key.endswith(("weight", "bias")):
                    raise ModelError(
                        f"{key} in {file.name} has numbers of type {kind}, and config.json does"
                        " not say how to unpack them"
                    )


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
    for name, weight in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().reshape(-1)
        size = len(flat) if len(flat) <= WHOLE else BLOCK
        step = max(1, size, len(flat) // BLOCKS)
        starts = [*range(0, len(flat), step), max(0, len(flat) - size)]
        blocks = [flat[start : start + size].double().numpy() for start in starts]
        found.update(np.concatenate(blocks).tobytes())
    return found.hexdigest()


def _vocabulary(tokenizer: Any) -> str:
    """All that decides on a text's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokens = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    return f"{tokenizer(SAMPLE)['input_ids']} {tokens}"
