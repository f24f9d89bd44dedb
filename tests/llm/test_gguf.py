"""Files that transformers would read otherwise than they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import LlamaConfig

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.local.gguf import check_gguf


class Spaced:
    """A tokenizer that puts a BOS and a space before every text."""

    bos_token = "<s>"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [0, 1]}

    def convert_ids_to_tokens(self, numbers: list[int]) -> list[str]:
        return [["<s>", "▁x"][number] for number in numbers]


class Network(torch.nn.Module):
    """Six weights."""

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig()
        self.weight = torch.nn.Parameter(torch.zeros(2, 3))
        self.tied = self.weight


def written(path: Path, values: dict[str, Any], tensors: tuple[str, ...] = ("a",)) -> Path:
    writer = GGUFWriter(path, "llama")
    for name, value in values.items():
        add = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32}
        add[type(value)](name, value)
    for name in tensors:
        writer.add_tensor(name, np.zeros((3, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_space_prefix": True},
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.factor": 1.0},
    ],
)
def test_files_that_are_read_as_they_are(tmp_path: Path, values: dict[str, Any]) -> None:
    check_gguf(written(tmp_path / "x.gguf", values), Network(), Spaced())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokenizer.ggml.add_bos_token": False}, "adds a BOS before a text, contrary to"),
        ({"tokenizer.ggml.add_space_prefix": False}, "adds a space before a text, contrary to"),
        ({"llama.rope.scaling.type": "linear"}, r"scaled \(llama\.rope\.scaling\.type\)"),
        ({"llama.rope.scaling.factor": 8.0}, r"scaled \(llama\.rope\.scaling\.factor\)"),
    ],
)
def test_keys_that_are_not_heeded(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"{message}.* use the folder of the model"):
        check_gguf(written(tmp_path / "x.gguf", values), Network(), Spaced())


def test_a_scaling_that_was_read(tmp_path: Path) -> None:
    network = Network()
    network.config.rope_parameters = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    values = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0}
    check_gguf(written(tmp_path / "x.gguf", values), network, Spaced())


def test_tensors_that_are_not_read(tmp_path: Path) -> None:
    file = written(tmp_path / "x.gguf", {}, ("a", "rope_freqs.weight"))
    with pytest.raises(ModelError, match="has 12 weights, but the network made from it has 6"):
        check_gguf(file, Network(), Spaced())
