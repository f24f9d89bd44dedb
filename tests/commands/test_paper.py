"""Every experiment in its quick form, as a user starts it: real processes, a tiny random model."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from asyndbt_mpi.baselines.methods import COMPARED
from asyndbt_mpi.baselines.result import read
from tests.helpers import Result, asyndbt_alone
from tests.llm.tiny import SMALL, save

pytestmark = pytest.mark.long

SIZES = {**SMALL, "max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of labels, and of sentences as well."""
    folder = save(tmp_path_factory.mktemp("model"), LlamaConfig(**SIZES))
    any_tokenizer: Any = AutoTokenizer  # its methods have no types
    tokenizer = any_tokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all experiments share."""
    return tmp_path_factory.mktemp("results")


def quick(name: str, model: Path, results: Path, *more: str) -> Result:
    return asyndbt_alone(
        *("experiment", name, "--quick", "--encoder", str(model), "-o", str(results)),
        *("--set", f"llm.model={model}", *more),
        folder=results,
        seconds=500,
        CUDA_VISIBLE_DEVICES="",
    )


def test_table3(model: Path, results: Path) -> None:
    found = quick("table3", model, results)
    assert found.returncode == 0, found.stderr
    for method in COMPARED:
        assert f"| {method} |" in found.stdout
    assert "Friedman test" in found.stdout
    rows = list(csv.DictReader((results / "table3.csv").open()))
    assert len(rows) == 2 * len(COMPARED)
    assert all(int(row["calls"]) <= 600 for row in rows)


def test_table4_uses_what_is_known_from_table3(model: Path, results: Path) -> None:
    # Tests of a file may run in several processes: what another one made is not here.
    assert quick("table3", model, results, "--methods", "cendbt").returncode == 0
    before = (results / "reviews" / "cendbt-0.json").stat().st_mtime_ns
    found = quick("table4", model, results)
    assert found.returncode == 0, found.stderr
    assert (results / "reviews" / "cendbt-0.json").stat().st_mtime_ns == before
    for part in ("plain", "words only", "demonstrations only", "both"):
        assert f"| {part} |" in found.stdout


def test_figure1(model: Path, results: Path) -> None:
    found = quick("figure1", model, results)
    assert found.returncode == 0, found.stderr
    assert "reviews, to as many iterations: AsynDBT takes" in found.stdout
    assert (results / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "figure1.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((results / "figure1.csv").open()))
    assert [(row["task"], row["at_equal"]) for row in rows] == [
        ("reviews", "iterations"), ("reviews", "loss"), ("demo", "iterations"), ("demo", "loss"),
    ]  # fmt: skip


def test_figures_2_to_7(model: Path, results: Path) -> None:
    found = quick("figures2-7", model, results)
    assert found.returncode == 0, found.stderr
    for task in ("reviews", "demo"):
        assert (results / f"curves-{task}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / f"curves-{task}.pdf").read_bytes().startswith(b"%PDF")


def test_the_manifest_has_versions_and_digests(model: Path, results: Path) -> None:
    assert quick("figures2-7", model, results).returncode == 0
    entries = json.loads((results / "manifest.json").read_text())["results"]
    entry = entries["demo/asyndbt-0.json"]
    made = read(results / "demo" / "asyndbt-0.json")
    assert (entry["data"], entry["model_digest"]) == (made.data_digest, made.model_digest)
    assert entry["versions"] == made.versions
    for name, digest in entry["sha256"].items():
        content = (results / "demo" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert set(entry["sha256"]) == {"asyndbt-0.json", "asyndbt-0.h5"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--encoder", "nowhere/none"), "encoder 'nowhere/none' cannot be loaded"),
        (("--texts", "none.txt"), "--texts 'none.txt': No such file"),
        (("--tasks", "sst2"), "give --data FOLDER"),
        (("--set", "task.train_per_class=5000"), "the 3 workers need 15012"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_paid_for(
    model: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    found = quick("table3", model, tmp_path, *more)
    assert found.returncode == 2, found.stderr
    assert says in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))
