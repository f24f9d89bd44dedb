"""Who may import whom, read from the sources: imports go downward only."""

import ast
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = "asyndbt_mpi"

# Each room and what of the package it may use, besides itself; from the ground up.
ALLOWED = {
    "inputs": set(),
    "config": {"inputs"},
    "algorithm": set(),
    "protocol": {"algorithm", "config", "inputs"},
    "adversary": {"protocol", "algorithm", "config", "inputs"},
    "transport": {"adversary", "protocol", "algorithm", "config", "inputs"},
    "log": {"protocol", "algorithm", "config", "inputs"},
    "llm": {"inputs"},
    "task": {"llm", "protocol", "algorithm", "config", "inputs"},
    "view": {"log", "task", "protocol", "algorithm", "config", "inputs"},
    # Logs are read through these modules, and the final tests as in `asyndbt show`.
    "analysis": {
        *("baselines.result", "log.reader", "view.intervals", "view.outcomes", "config"),
        "inputs.options",
    },
    "report": {"analysis", "view", "log", "protocol", "config", "inputs"},
    "doctor": {"transport", "log", "llm", "config", "inputs"},
    # The one place that chooses implementations stands at the door of jobs, and is one of them.
    "assemble": {
        *("jobs", "log", "task", "llm", "transport", "protocol", "algorithm", "config", "inputs"),
        "adversary",
    },
    "jobs": {
        *("assemble", "log", "task", "llm", "transport", "protocol", "algorithm", "config"),
        *("adversary", "inputs"),
    },
    "baselines": {
        *("assemble", "jobs", "log", "task", "llm", "transport", "protocol", "algorithm", "config"),
        *("adversary", "inputs"),
    },
    "commands": {
        *(
            "analysis",
            "assemble",
            "baselines",
            "jobs",
            "doctor",
            "report",
            "view",
            "log",
            "task",
            "llm",
        ),
        *("transport", "adversary", "protocol", "algorithm", "config", "inputs"),
    },
    "api": {
        *("commands", "assemble", "jobs", "view", "log", "task", "transport", "protocol"),
        *("algorithm", "config", "inputs"),
    },
    "cli_logs": {
        *("commands", "jobs", "view", "log", "config", "inputs"),
    },
    "cli_experiments": {"baselines", "commands", "jobs", "view", "config", "inputs"},
    "cli": {
        *(
            "cli_experiments",
            "cli_logs",
            "commands",
            "assemble",
            "jobs",
            "view",
            "log",
            "task",
            "transport",
            "protocol",
        ),
        *("analysis", "config", "inputs"),
    },
}
# What a file says when it is run as a script is said at the door of the whole package.
DOORS = {("analysis", "cli")}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(room: str) -> list[Path]:
    place = ROOT / PACKAGE / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def test_every_room_is_known() -> None:
    rooms = {path.name for path in (ROOT / PACKAGE).iterdir() if (path / "__init__.py").exists()}
    assert rooms | {"config", "assemble", "api", "cli", "cli_experiments", "cli_logs"} == set(
        ALLOWED
    )


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_downward(room: str) -> None:
    for path in files(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == PACKAGE and parts[1] != "__version__" and (room, parts[1]) not in DOORS:
                allowed = {parts[1], ".".join(parts[1:3])} & (ALLOWED[room] | {room})
                assert allowed, f"{path} imports {name}"


def test_the_algorithm_needs_numbers_and_loops_alone() -> None:
    for path in files("algorithm"):
        outside = {name.split(".")[0] for name in imports(path)}
        outside -= set(sys.stdlib_module_names) | {PACKAGE}
        assert outside <= {"numpy", "scipy", "numba"}, path


def test_only_the_mpi_driver_imports_mpi4py() -> None:
    users = {
        path.relative_to(ROOT / PACKAGE).as_posix()
        for path in (ROOT / PACKAGE).rglob("*.py")
        if any(name.split(".")[0] == "mpi4py" for name in imports(path))
    }
    assert users == {"transport/mpi.py"}


def test_nothing_is_pickled() -> None:
    """Unpickling a worker's message would let it run code on the server."""
    lower_case = {"send", "recv", "isend", "irecv", "bcast", "gather", "allgather", "scatter"}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        assert not {"pickle", "dill", "cloudpickle"} & {n.split(".")[0] for n in imports(path)}
        if "mpi4py" in path.read_text():
            calls = {
                node.func.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name | ast.Attribute)
                and "comm" in ast.unparse(node.func.value).lower()
            }
            assert not calls & lower_case, path


def test_modules_stay_readable() -> None:
    for path in (ROOT / PACKAGE).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 550, path


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        others = [
            name for name in imports(path)
            if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
        ]  # fmt: skip
        assert not others, path
