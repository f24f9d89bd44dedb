"""Logs of the simulated run, made once and copied by whoever wants to change one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.log.simulated_run import configuration, write_log

CONFIGURATIONS = {
    "whole": configuration(),
    "sparse": configuration(log={"iterates": 6}),
    "crowded": configuration(algorithm={"max_planes": 1}, log={"iterates": 6}),
    "adam": configuration(steps={"optimizer": "adam"}),
    "mirror": configuration(steps={"optimizer": "mirror"}),
    "l2sq": configuration(
        algorithm={"lower_distance": "l2sq", "tolerance": 0.001, "dual_regularisation": "decay"}
    ),
    "synchronous": configuration(algorithm={"active_workers": 4}),
}

LogCopy: TypeAlias = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture
def log_copy(folder: Path, tmp_path: Path) -> LogCopy:
    """A finished log of the named configuration, of one's own."""

    def copy(name: str) -> Path:
        original = folder / f"{name}.h5"
        if not original.exists():
            write_log(original, CONFIGURATIONS[name])
        return Path(shutil.copy(original, tmp_path / f"{name}.h5"))

    return copy
