"""What somebody gets who installs the package and has no clone: its files, and its commands."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import asyndbt_mpi
from asyndbt_mpi.commands.sbatch import SHIPPED
from asyndbt_mpi.config import load
from asyndbt_mpi.inputs.sections import TaskSection
from asyndbt_mpi.task import sources, vocabulary
from tests.helpers import Result, sets, start

HOME = Path(asyndbt_mpi.__file__).parent
PRESETS = {"cola", "demo", "fiveg", "mrpc", "qnli", "qqp", "reviews", "sst2", "synthetic"}
DELAYS = ("delay.model=lognormal", "delay.mean=1")
EXACT = ("estimator.name=exact", "steps.optimizer=sgd", "algorithm.plane_until=0")


def asyndbt(*words: str, folder: Path) -> Result:
    """The command as installed, which must succeed."""
    result = start([str(Path(sys.executable).with_name("asyndbt")), *words], folder)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a small sweep."""
    place = tmp_path_factory.mktemp("runs")
    few = sets("run.iterations=20", *DELAYS)
    asyndbt("simulate", "synthetic", *few, "--output", "run.h5", folder=place)
    grid = ("--workers", "2", "--vary", "algorithm.active_workers=1,2", "--seeds", "1")
    asyndbt("sweep", "synthetic", *grid, *few, *sets(*EXACT), "-o", "sweep", folder=place)
    return place


def test_the_package_says_its_version_and_is_typed() -> None:
    assert importlib.metadata.version("asyndbt-mpi") == asyndbt_mpi.__version__
    assert (HOME / "py.typed").is_file()


def test_all_presets_are_there() -> None:
    names = {path.stem for path in (HOME / "presets").iterdir()}
    assert names >= PRESETS
    for name in names:
        load(name)


def test_all_vocabularies_are_there() -> None:
    assert {*vocabulary.shipped()} >= {"english", "instructions", "requests", "reviews"}
    for name in vocabulary.shipped():
        assert len(vocabulary.load_vocabulary(name, 8)) == 8


def test_all_data_are_there() -> None:
    assert {*sources.shipped()} >= {"requests", "reviews"}
    for name in sources.shipped():
        tables = sources.read_tables(TaskSection(name=name))
        assert len(tables.train.records) >= 50
        assert (HOME / "task/data" / name / "README.md").is_file()


def test_help_names_every_command(tmp_path: Path) -> None:
    text = asyndbt("--help", folder=tmp_path).stdout
    for name in ("run", "simulate", "show", "plot", "verify", "data", "sbatch", "prompt"):
        assert f"  {name} " in text


def test_a_run_is_shown_verified_and_replayed(folder: Path) -> None:
    assert "consensus" in asyndbt("show", "run.h5", folder=folder).stdout
    for command in ("verify", "replay"):
        asyndbt(command, "run.h5", folder=folder)


@pytest.mark.parametrize(
    ("figure", "log"),
    [
        ("convergence", "run.h5"), ("timing", "run.h5"), ("scaling", "sweep"),
        ("stragglers", "sweep"),
    ],
)  # fmt: skip
def test_every_figure_is_drawn(folder: Path, figure: str, log: str) -> None:
    asyndbt("plot", figure, log, "-o", f"{figure}.pdf", folder=folder)
    assert (folder / f"{figure}.pdf").read_bytes().startswith(b"%PDF")


def test_a_file_is_understood(tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("w") as rows:
        for number in range(120):
            row = {"text": f"row {number}", "label": ("this", "that")[number % 2]}
            print(json.dumps(row), file=rows)
    text = asyndbt("data", "rows.jsonl", folder=tmp_path).stdout
    assert "[task]" in text
    assert "{text}" in text


def test_jobs_for_slurm_are_there(tmp_path: Path) -> None:
    job = ("--nodes", "1", "--workers-per-node", "2", "--time", "01:00:00")
    line = asyndbt("sbatch", "synthetic", *job, "--dry-run", folder=tmp_path).stdout
    assert str(SHIPPED / "run.sbatch") in line
    scripts = sorted(SHIPPED.glob("*.s*"))
    assert {path.name for path in scripts} >= {"run.sbatch", "sweep.sbatch", "plots.sbatch"}
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
