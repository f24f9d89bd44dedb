"""Is what transformers reads of a GGUF file all that the file says?"""

from pathlib import Path
from typing import Any

from asyndbt_mpi.llm.base import ModelError

REMEDY = "use the folder of the model that it was made from"

UNSCALED = ("none", 0, 1, "", None)
"""Values of keys about the scaling of positions that say that there is none."""


def check_gguf(file: Path, network: Any, tokenizer: Any) -> None:
    """Refuse a ``network`` or a ``tokenizer`` that was read otherwise than the ``file`` says.

    What its reader does not know it passes over without a word.

    Raises
    ------
    ModelError
        The file has tensors, a scaling of positions or flags that were not heeded.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    _check_tensors(reader.tensors, network)
    values = {name: field.contents() for name, field in reader.fields.items() if _is_flag(name)}
    scaled = [
        name for name, value in values.items() if "rope.scaling" in name and value not in UNSCALED
    ]
    if scaled and "'rope_type': 'default'" in str(network.config.to_dict()):
        raise ModelError(
            f"its positions are scaled ({scaled[0]}), which is not supported; {REMEDY}"
        )
    _check_tokenizer(values, tokenizer)


def _is_flag(name: str) -> bool:
    scaling = name.endswith(("rope.scaling.type", "rope.scaling.factor"))
    return scaling or name.startswith("tokenizer.ggml.add_")


def _check_tensors(tensors: Any, network: Any) -> None:
    """Every number of the file is one of the network: tensors are renamed and turned, not made."""
    in_file = sum(int(tensor.n_elements) for tensor in tensors)
    in_network = sum(weight.numel() for weight in network.parameters())  # tied ones once
    if in_file != in_network:
        raise ModelError(
            f"the file has {in_file:,} weights, but the network made from it has {in_network:,}:"
            f" some of its tensors were not read; {REMEDY}"
        )


def _check_tokenizer(values: dict[str, Any], tokenizer: Any) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("x")["input_ids"])
    begins = tokens[:1] == [tokenizer.bos_token]
    spaced = tokens[begins].startswith("▁")
    for flag, found, what in (
        ("add_bos_token", begins, "a BOS before a text"),
        ("add_space_prefix", spaced, "a space before a text"),
    ):
        value = values.get(f"tokenizer.ggml.{flag}")
        if value is not None and bool(value) != found:
            raise ModelError(
                f"its tokenizer was read incorrectly: it {'adds' if found else 'omits'} {what},"
                f" contrary to {flag} in the file; {REMEDY}"
            )
