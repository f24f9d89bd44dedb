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


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def loaded(*arguments: str) -> set[str]:
    """The modules that are loaded when `asyndbt ARGUMENTS` ends, as it should."""
    return set(python(LOADED, *arguments).stderr.partition("loaded:")[2].split())


def test_help_loads_nothing_slow() -> None:
    found = loaded("--help")
    assert "click" in found
    assert not found & (SLOW | {"rich.console", "asyndbt_mpi.commands.show"})


def test_show_of_a_run_with_tests_loads_nothing_slow(demo_run: Path) -> None:
    found = loaded("show", str(demo_run))
    assert {"h5py", "rich.table", "asyndbt_mpi.view.intervals"} <= found
    assert not found & SLOW


QUICK = """
import gc, sys
from asyndbt_mpi.llm.local.quickly import quickly

gc.set_threshold(1000, 10, 10)
with quickly():
    from transformers.models.llama import modeling_llama
    assert not gc.isenabled()
assert gc.isenabled()
print("scipy" in sys.modules, modeling_llama.LlamaForCausalLM.__name__)
from scipy import special
print(special.ndtr(0.0))
"""
LATE = """
import sys
from transformers.utils import is_scipy_available
from asyndbt_mpi.llm.local.quickly import quickly

assert is_scipy_available()
with quickly():
    from transformers.models.llama import modeling_llama
print("scipy" in sys.modules)
"""


def test_transformers_is_imported_without_what_it_can_do_without() -> None:
    assert python(QUICK).stdout.split() == ["False", "LlamaForCausalLM", "0.5"]


def test_what_transformers_has_found_before_stays_there() -> None:
    assert python(LATE).stdout.split() == ["True"]


def test_rank_0_of_a_run_has_no_model() -> None:
    done = python("import sys, asyndbt_mpi.commands.run; print(*sys.modules)")
    found = set(done.stdout.split())
    assert "mpi4py" in found
    assert not found & {"torch", "transformers", "tokenizers", "openai", "numba", "scipy"}
