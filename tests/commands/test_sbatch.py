"""asyndbt sbatch: what sbatch is called with; and asyndbt status, which the scripts ask."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyndbt_mpi.commands.sbatch import SHIPPED, check_time, submission
from asyndbt_mpi.config import ConfigurationError
from tests.helpers import Result, asyndbt

OPTIONS = {"nodes": "3", "gpus-per-node": "2"}
ARGUMENTS = ("demo", "--set", "a.b=x y")


def test_options_go_before_the_script_and_arguments_behind() -> None:
    call = submission(SHIPPED, OPTIONS, ("--qos=long", "--mem=1G"), "srun", 2, ARGUMENTS)
    assert call.command == (
        *("sbatch", "--export=ALL", "--nodes=3", "--gpus-per-node=2", "--qos=long", "--mem=1G"),
        *(str(SHIPPED / "run.sbatch"), "demo", "--set", "a.b=x y"),
    )
    assert call.variables["LAUNCHER"] == "srun"
    assert call.variables["WORKERS_PER_NODE"] == "2"
    assert call.variables["ASYNDBT_SLURM"] == str(SHIPPED)


def test_the_virtual_environment_is_this_one_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ASYNDBT_VENV", raising=False)
    assert submission(SHIPPED, {}, (), "srun", 2, ("demo",)).variables["ASYNDBT_VENV"] == sys.prefix
    monkeypatch.setenv("ASYNDBT_VENV", "/own")
    assert "ASYNDBT_VENV" not in submission(SHIPPED, {}, (), "srun", 2, ("demo",)).variables


@pytest.fixture
def slurm(tmp_path: Path) -> str:
    """The PATH to an sbatch that keeps its variables and words, or refuses the word --refused."""
    tool = tmp_path / "bin/sbatch"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/bash\n"
        'case " $* " in *" --refused "*) echo "sbatch: error: no" >&2; exit 1;; esac\n'
        f'printf "%s\\0" "$LAUNCHER" "$WORKERS_PER_NODE" "$ASYNDBT_SLURM" "$@" > {tmp_path}/got\n'
        "echo Submitted batch job 7\n"
    )
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`asyndbt sbatch synthetic` with a PATH of one's own."""

    def run(path: str, *words: str) -> Result:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", path)
            return asyndbt("sbatch", "synthetic", "--time", "5", *words, folder=tmp_path)

    return run


def test_the_dry_run_prints_the_line_that_is_run(
    tmp_path: Path, slurm: str, call: Callable[..., Result]
) -> None:
    words = (
        *("--nodes", "2", "--gpus-per-node", "2", "--partition", "gpu"),
        *("--set", "run.name=one two", "--launcher", "srun", "--", "--mem=1G"),
    )
    submitted = call(slurm, *words)
    assert (submitted.returncode, submitted.stdout) == (0, "Submitted batch job 7\n")
    got = (tmp_path / "got").read_text()
    launcher, workers, folder, *options = got.split("\0")
    assert (launcher, workers, folder) == ("srun", "2", str(SHIPPED))
    assert {"--job-name=one two", "--nodes=2", "--ntasks-per-node=3", "--mem=1G"} <= set(options)
    (tmp_path / "got").unlink()
    printed = call(slurm, "--dry-run", *words)
    assert printed.returncode == 0
    assert not (tmp_path / "got").exists()
    subprocess.run(
        ["bash", "-c", printed.stdout], env=os.environ | {"PATH": slurm}, cwd=tmp_path, check=True,
        capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "got").read_text() == got


def test_a_folder_of_ones_own_comes_first(
    tmp_path: Path, slurm: str, call: Callable[..., Result]
) -> None:
    shutil.copytree(SHIPPED, tmp_path / "slurm")
    printed = call(slurm, "--workers-per-node", "3", "--dry-run").stdout
    assert f"ASYNDBT_SLURM={tmp_path / 'slurm'} " in printed
    assert f" {tmp_path / 'slurm/run.sbatch'} synthetic\n" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--workers-per-node is missing, as there is no --gpus-per-node"),
        (["--gpus-per-node", "1"], "algorithm.active_workers = 2: the run has only 1 workers"),
        (["--workers-per-node", "3", "--", "--refused"], "not submitted: sbatch: error: no"),
        (["--workers-per-node", "3", "foo"], "'foo': sbatch has no such option; they begin with -"),
        (
            ["--workers-per-node", "3", "--", "-"],
            "'-': sbatch has no such option; they begin with -",
        ),
        (
            ["--workers-per-node", "3", "--", "--export=NONE"],
            "'--export=NONE': the job gets all variables: set them before asyndbt sbatch",
        ),
        (
            ["--workers-per-node", "3", "--", "--nodes=2"],
            "'--nodes=2': give --nodes before the two dashes",
        ),
        (
            ["--workers-per-node", "3", "--time", "4"],
            "--time 4: give more than 4 minutes: Slurm tells the job to stop two or three before its"
            " limit",
        ),
    ],
)
def test_what_is_wrong_is_said_before_it_waits_in_a_queue(
    tmp_path: Path, slurm: str, call: Callable[..., Result], words: list[str], line: str
) -> None:
    result = call(slurm, *words)
    assert result.returncode == 2
    assert result.stderr == f"asyndbt: {line}\n"


def test_without_slurm_the_line_can_be_printed(call: Callable[..., Result]) -> None:
    words = ("--workers-per-node", "3")
    result = call("/nowhere", *words)
    assert result.returncode == 2
    assert "there is no sbatch here" in result.stderr
    assert call("/nowhere", *words, "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("time", "fits"),
    [
        ("5", True), ("4", False), ("04:59", False), ("05:00", True), ("00:04:00", False),
        ("1:00:00", True), ("0-00:04", False), ("0-01", True), ("1-00:00:00", True), ("soon", None),
        ("1:2:3:4", None), ("", None), ("\uff15", None), ("\u0665:00:00", None), ("1_0", None),
        ("4294967293", True),
    ],
)  # fmt: skip
def test_times_as_slurm_writes_them(time: str, fits: bool | None) -> None:
    if fits:
        check_time(time)
        return
    told = "give HH:MM:SS" if fits is None else "give more than 4 minutes"
    with pytest.raises(ConfigurationError, match=told):
        check_time(time)


@pytest.mark.parametrize("time", ["9999999999999999-00", "4294967294", "71582788:15:00"])
def test_times_that_slurm_cannot_count(time: str) -> None:
    with pytest.raises(ConfigurationError, match="Slurm counts no more than 4294967293 minutes"):
        check_time(time)


@pytest.mark.parametrize("name", ["partition", "account"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_option_has_a_value(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^--{name} is empty"):
        submission(SHIPPED, {name: value}, (), "srun", 2, ("demo",))


def test_a_log_that_is_there_has_to_fit(
    tmp_path: Path, slurm: str, call: Callable[..., Result]
) -> None:
    made = asyndbt("simulate", "synthetic", "--set", "run.iterations=3", folder=tmp_path)
    assert made.returncode == 0
    other = call(slurm, "--workers-per-node", "2", "--dry-run")
    assert "has 3 workers, not 2" in other.stderr
    words = ["--workers-per-node", "3", "--dry-run", "--set", "algorithm.max_delay=4"]
    other = call(slurm, *words)
    assert "was made with algorithm.max_delay = 10, not 4" in other.stderr
    assert other.returncode == 2


def test_a_dry_run_writes_nothing(tmp_path: Path, slurm: str) -> None:
    words = ["demo", "--time", "5", "--workers-per-node", "3", "--dry-run"]
    done = asyndbt("sbatch", *words, folder=tmp_path)
    assert done.returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["bin"]


def test_the_status_of_a_run(tmp_path: Path) -> None:
    words = ["synthetic", "--set", "run.iterations=3", "--output", "a.h5"]
    missing = asyndbt("status", *words, folder=tmp_path)
    assert (missing.returncode, missing.stdout) == (1, "a.h5: not started\n")
    assert asyndbt("simulate", *words, folder=tmp_path).returncode == 0
    done = asyndbt("status", *words, "--resume", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "a.h5: finished, 3 of at most 3 iterations\n")
    more = asyndbt("status", *words, "--set", "run.iterations=5", folder=tmp_path)
    assert more.returncode == 1, "a run that is to be longer is not at its end"
    other = asyndbt("status", *words, "--set", "algorithm.max_delay=4", folder=tmp_path)
    assert other.returncode == 2
    assert "was made with algorithm.max_delay = 10, not 4" in other.stderr


@pytest.mark.parametrize(
    "wrong", ["x\ntouch PWNED #", "a\rb", "a\0b", "\x1b[31m", "\u2028", "\ud800"]
)
def test_what_cannot_be_seen_is_not_given_to_sbatch(wrong: str) -> None:
    wrong_words: list[tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = [
        ({"job-name": wrong}, (), ("demo",)),
        ({"partition": wrong}, (), ("demo",)),
        ({}, (f"--qos={wrong}",), ("demo",)),
        ({}, (), (wrong,)),
        ({}, (), ("demo", "--set", f"run.name={wrong}")),
        ({}, (), ("demo", "--output", wrong)),
    ]
    for options, further, arguments in wrong_words:
        with pytest.raises(ConfigurationError, match="for sbatch") as caught:
            submission(SHIPPED, options, further, "mpiexec", 1, arguments)
        assert str(caught.value).isprintable()


def test_a_name_with_a_line_break_is_refused(tmp_path: Path, slurm: str) -> None:
    (tmp_path / "x.toml").write_text(
        '[run]\nname = "x\\ntouch PWNED #"\n[llm]\nbackend = "synthetic"\n'
    )
    words = ["x.toml", "--time", "5", "--workers-per-node", "3", "--dry-run"]
    done = asyndbt("sbatch", *words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "asyndbt: x.toml: run.name = 'x\\ntouch PWNED #': must not contain"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "word", ["-N2", "-N", "-t5", "-pgpu", "--part=gpu", "--job-name=x", "--node=2"]
)
def test_no_other_spelling_gets_round_what_was_checked(word: str) -> None:
    with pytest.raises(ConfigurationError, match="before the two dashes"):
        submission(SHIPPED, {}, (word,), "mpiexec", 1, ("demo",))


@pytest.mark.parametrize(
    "name", ["$(touch x)", "`touch x`", "a; touch x", "a b", "'", '"', "*", "-x"]
)
def test_words_of_the_shell_stay_words(tmp_path: Path, name: str) -> None:
    """In the line that --dry-run prints, as bash reads it."""
    arguments = ("demo", "--set", f"run.name={name}")
    call = submission(SHIPPED, {"job-name": name}, (), "mpiexec", 1, arguments)
    done = subprocess.run(
        ["bash", "-c", f"sbatch() {{ printf '%s\\n' sbatch \"$@\"; }}\n{call}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tuple(done.stdout.splitlines()) == call.command
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_looks_like_an_option() -> None:
    with pytest.raises(ConfigurationError, match=r"put \./ before it"):
        submission(SHIPPED, {}, (), "mpiexec", 1, ("--overwrite",))
