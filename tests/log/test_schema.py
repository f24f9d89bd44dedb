"""The layout of a log, against the published table of datasets."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.log.conftest import LogCopy
from tests.log.simulated_run import SHAPES, VOCABULARY, WORKERS

ITERATIONS = 40
SIZES = {"R": WORKERS, "M": 3, "N": 5, "U": 2, "V": 4, "I": 8}

# path: shape after the row dimension, type; typed from the specification, not from the code.
CONTRACT = {
    "iteration/z": ("MN", "f8"),
    "iteration/gradient": ("MN", "f8"),
    "iteration/active": ("R", "bool"),
    "iteration/delay": ("R", "i4"),
    "iteration/time": ("", "f8"),
    "iteration/objective": ("", "f8"),
    "report/worker": ("", "i8"),
    "report/seq": ("", "i8"),
    "report/iteration": ("", "i8"),
    "report/read_iteration": ("", "i8"),
    "report/p": ("MN", "f8"),
    "report/q": ("UV", "f8"),
    "report/loss": ("", "f8"),
    "report/grad_p_norm": ("", "f8"),
    "report/grad_q_norm": ("", "f8"),
    "report/prompts": ("", "i8"),
    "report/llm_calls": ("", "i8"),
    "report/prompt_tokens": ("", "i8"),
    "report/compute_seconds": ("", "f8"),
    "report/sent_time": ("", "f8"),
    "report/used_time": ("", "f8"),
    "plane/id": ("", "i8"),
    "plane/created": ("", "i8"),
    "plane/positions": ("M", "bool"),
    "plane/a": ("RMN", "i1"),
    "plane/b": ("MN", "f8"),
    "plane/c": ("M", "f8"),
    "plane/dropped": ("M", "i8"),
    "dual/iteration": ("", "i8"),
    "dual/plane": ("", "i8"),
    "dual/value": ("M", "f8"),
    "lower/iteration": ("", "i8"),
    "lower/k": ("RU", "i8"),
    "lower/phi_p": ("RMN", "f8"),
    "lower/phi_z": ("MN", "f8"),
    "lower/h": ("M", "f8"),
    "lower/llm_calls": ("", "i8"),
    "lower/prompt_tokens": ("", "i8"),
    "evaluation/iteration": ("", "i8"),
    "evaluation/worker": ("", "i8"),
    "evaluation/split": ("", "enum"),
    "evaluation/candidate": ("", "enum"),
    "evaluation/accuracy": ("", "f8"),
    "evaluation/loss": ("", "f8"),
    "evaluation/words": ("M", "i8"),
    "evaluation/demonstrations": ("U", "i8"),
    "evaluation/llm_calls": ("", "i8"),
    "evaluation/prompt_tokens": ("", "i8"),
    "evaluation/time": ("", "f8"),
    "evaluation/bias": ("U", "f8"),
    "answer/evaluation": ("", "i8"),
    "answer/row": ("", "i8"),
    "answer/loss": ("", "f8"),
    "answer/label": ("", "i8"),
    "answer/log_probabilities": ("U", "f8"),
    "event/kind": ("", "enum"),
    "event/worker": ("", "i8"),
    "event/number": ("", "i8"),
    "event/iteration": ("", "i8"),
    "event/time": ("", "f8"),
    "event/compute_seconds": ("", "f8"),
    "event/sent_time": ("", "f8"),
    "event/prompts": ("", "i8"),
    "event/llm_calls": ("", "i8"),
    "event/prompt_tokens": ("", "i8"),
    "event/completion_tokens": ("", "i8"),
    "event/unrecognised": ("", "i8"),
    "event/losses": ("I", "f8"),
    "event/accuracy": ("", "f8"),
    "event/text": ("", "text"),
    "vocabulary": ("", "text"),
    "worker/description": ("", "text"),
    "worker/cost_bounds": ("", "text"),
    "worker/model": ("", "text"),
    "batch/rows": ("", "compound"),
    "batch/checksum": ("", "compound"),
}

ATTRIBUTES = {
    "data_digest": "",
    "format": "asyndbt",
    "format_version": 5,
    "seed": 7,
    "workers": WORKERS,
    "active_workers": 2,
    "max_delay": 3,
    "positions": SHAPES.positions,
    "words": SHAPES.words,
    "classes": SHAPES.classes,
    "pool": SHAPES.pool,
    "transport": "virtual",
    "status": "finished",
    "committed": ITERATIONS,
    "starts": 1,
}


@pytest.fixture
def path(log_copy: LogCopy) -> Path:
    return log_copy("whole")


def type_name(dtype: np.dtype) -> str:
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    if dtype.names:
        return "compound"
    return "enum" if h5py.check_enum_dtype(dtype) is not None else dtype.name


def test_datasets_are_those_of_the_contract(path: Path) -> None:
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item.shape[1:] and item.shape[1:]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        types = {name: type_name(file[name].dtype) for name in found}
        extendible = {name: file[name].maxshape[0] is None for name in found}
    shapes = {name: tuple(SIZES[axis] for axis in axes) for name, (axes, _) in CONTRACT.items()}
    names = {"f8": "float64", "i8": "int64", "i4": "int32", "i1": "int8"}
    assert found == shapes
    assert types == {name: names.get(kind, kind) for name, (_, kind) in CONTRACT.items()}
    assert all(extendible.values())


def test_attributes_are_those_of_the_contract(path: Path) -> None:
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs)
    assert attributes.pop("config").startswith("[run]")
    assert attributes.pop("package_version")
    assert attributes.pop("committed_rows")["iteration"] == ITERATIONS
    assert set(attributes.pop("kept_rows").item()) == {0}
    assert attributes.pop("logging_seconds") >= 0
    assert attributes.pop("checksum").dtype == np.uint32
    assert attributes == ATTRIBUTES


def test_lengths_agree_after_closing(path: Path) -> None:
    with h5py.File(path, "r") as file:
        assert len(file["iteration/z"]) == ITERATIONS + 1
        assert len(file["vocabulary"]) == len(VOCABULARY)
        assert len(file["worker/description"]) == WORKERS
        for group in ("iteration", "report", "plane", "dual", "lower", "evaluation", "event"):
            lengths = {len(file[group][name]) for name in file[group] if name != "z"}
            assert len(lengths) == 1
            if group == "iteration":
                assert lengths == {ITERATIONS}


def test_codes_have_names(path: Path) -> None:
    with h5py.File(path, "r") as file:
        assert h5py.check_enum_dtype(file["evaluation/split"].dtype) == {
            "train": 0,
            "validation": 1,
            "test": 2,
            "race": 3,
        }
        assert "consensus" in h5py.check_enum_dtype(file["evaluation/candidate"].dtype)
        assert "lower_report" in h5py.check_enum_dtype(file["event/kind"].dtype)


def test_planes_of_squared_distances_are_not_signs(log_copy: LogCopy) -> None:
    with h5py.File(log_copy("l2sq"), "r") as file:
        assert file["plane/a"].dtype == np.float64
        assert np.abs(file["plane/a"][:]).max() > 0
