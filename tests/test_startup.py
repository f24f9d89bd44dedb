"""What a command loads before it says anything: libraries that it does not need cost seconds."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

SLOW = {
    *("torch", "transformers", "tokenizers", "openai", "numba", "scipy", "matplotlib", "mpi4py"),
    *("numpy.ma", "asyndbt_mpi.assemble", "asyndbt_mpi.task.dataset", "asyndbt_mpi.api"),
}
LOADED = """
import sys
sys.argv = ["asyndbt", *sys.argv[1:]]
from asyndbt_mpi.cli import main
try:
    main()
finally:
    print("loaded:", *sorted(sys.modules), file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that are loaded when `asyndbt ARGUMENTS` ends, as it should."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.partition("loaded:")[2].split())


def test_help_loads_nothing_slow() -> None:
    found = loaded("--help")
    assert "click" in found
    assert not found & (SLOW | {"rich.console", "asyndbt_mpi.commands.show"})


def test_show_of_a_run_with_tests_loads_nothing_slow(demo_run: Path) -> None:
    found = loaded("show", str(demo_run))
    assert {"h5py", "rich.table", "asyndbt_mpi.view.intervals"} <= found
    assert not found & SLOW
