"""No command takes an address, a key's variable or a path from a log."""

import json
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from asyndbt_mpi.cli import cli
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.log.reader import Log
from tests.helpers import asyndbt, sets
from tests.llm.api_server import Manners, serving

SETTINGS = (
    "llm.backend=openai", "llm.model=toy", "llm.api=completion", "run.iterations=2",
    'task.labels=[" good", " bad"]', "task.test=0", "estimator.batch=2", "llm.cache=0",
)  # fmt: skip


@pytest.fixture
def server_run(tmp_path: Path) -> Path:
    """The log of a run that asked a server; the server has gone."""
    with serving(Manners()) as server:
        given = sets(*SETTINGS, f"llm.base_url={server.url}")
        asked = ["reviews", "--workers", "2", "--output", "run.h5", *given]
        result = asyndbt("simulate", *asked, folder=tmp_path)
        assert result.returncode == 0, result.stderr
    return tmp_path / "run.h5"


def renamed(path: Path, old: str, new: str) -> None:
    """What an owner can do to the configuration in a log."""
    with h5py.File(path, "r+") as file:
        assert old in file.attrs["config"]
        file.attrs["config"] = file.attrs["config"].replace(old, new)


def address(path: Path) -> str:
    with Log(path) as log:
        return log.config.llm.base_url


def test_a_log_sends_no_variable_to_nobody(
    server_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    with serving(Manners()) as stranger:
        renamed(server_run, address(server_run), stranger.url)
        renamed(server_run, 'key_variable = ""', 'key_variable = "DATABASE_PASSWORD"')
        result = asyndbt("stationarity", str(server_run), folder=server_run.parent)
        assert result.returncode == 2
        assert result.stderr == (
            f"asyndbt: {server_run}: its run used llm.base_url = {stranger.url!r},"
            " llm.key_variable = 'DATABASE_PASSWORD', which is never taken from a log; to use"
            " it, add --config with the configuration that the run was started with (and --set,"
            " as there)\n"
        )
        for command in ("show", "verify", "replay"):
            result = asyndbt(command, str(server_run), folder=server_run.parent)
            assert "hunter2" not in result.stdout + result.stderr
        assert stranger.done == []


def test_the_command_line_says_who_is_asked(
    server_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("MY_KEY", "own")
    with serving(Manners()) as stranger, serving(Manners()) as own:
        renamed(server_run, address(server_run), stranger.url)
        renamed(server_run, 'key_variable = ""', 'key_variable = "DATABASE_PASSWORD"')
        given = sets(*SETTINGS, f"llm.base_url={own.url}", "llm.key_variable=MY_KEY")
        asked = [str(server_run), "--samples", "2", "--config", "reviews", *given]
        result = asyndbt("stationarity", *asked, folder=server_run.parent)
        assert result.returncode == 0, result.stderr
        assert stranger.done == []
        assert set(own.keys) == {"Bearer own"}


def test_what_is_given_must_be_the_runs(server_run: Path) -> None:
    given = sets(*SETTINGS, "llm.model=dear", "llm.base_url=http://localhost:1/v1")
    result = asyndbt(
        "stationarity", str(server_run), "--config", "reviews", *given, folder=server_run.parent
    )
    assert result.returncode == 2
    assert result.stderr.endswith("was made with llm.model = 'toy', not 'dear'\n")


def test_settings_without_a_configuration(tmp_path: Path) -> None:
    for command in ("show", "replay", "stationarity"):
        result = CliRunner().invoke(
            cli, [command, str(tmp_path / "run.h5"), *sets("steps.p=1")], obj=False
        )
        assert isinstance(result.exception, ConfigurationError)
        assert "add --config CONFIG" in str(result.exception)


# ---------------------------------------------------------------- files


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    result = asyndbt(
        "simulate", "synthetic", *sets("run.iterations=3"), "--output", "run.h5", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    return tmp_path / "run.h5"


def test_a_vocabulary_is_not_read_from_where_a_log_says(synthetic: Path) -> None:
    with Log(synthetic) as log:
        listed = log.vocabulary
        vocabulary = log.config.prompt.vocabulary
        size = log.config.prompt.vocabulary_size
    private = synthetic.parent / "private.txt"
    private.write_text("\n".join(listed))
    assert isinstance(vocabulary, str)
    renamed(synthetic, f'vocabulary = "{vocabulary}"', f'vocabulary = "{private}"')
    assert size == len(listed)
    for command in ("replay", "stationarity"):
        result = asyndbt(command, str(synthetic), folder=synthetic.parent)
        assert result.returncode == 2
        assert f"its run used prompt.vocabulary = {str(private)!r}, which is never" in result.stderr
        # Whoever means it says so.
        more = sets("run.iterations=3", f"prompt.vocabulary={private}")
        result = asyndbt(
            command, str(synthetic), "--config", "synthetic", *more, folder=synthetic.parent
        )
        assert result.returncode == 0, result.stderr


def of(log_config: Config, path: str = "run.h5") -> Log:
    """A log of this configuration, as far as it matters here."""
    log = object.__new__(Log)
    log.path, log.config = path, log_config
    return log


@pytest.mark.parametrize(
    ("settings", "asks", "named"),
    [
        (("task.path=/home/victim",), False, "task.path = '/home/victim'"),
        (("llm.model=/home/victim/model",), True, "llm.model = '/home/victim/model'"),
        (("llm.model=/home/victim/model",), False, ""),
        (("llm.cache_folder=/home/victim/.ssh",), True, "llm.cache_folder = '/home/victim/.ssh'"),
        (("llm.cache_folder=",), True, ""),
        (("prompt.vocabulary=/etc/passwd",), False, "prompt.vocabulary = '/etc/passwd'"),
        (('prompt.vocabulary=["a", "b"]', "prompt.vocabulary_size=2"), True, ""),
        (("llm.backend=openai",), True, """llm.base_url = "OpenAI's\""""),
        (("llm.backend=openai",), False, ""),
        ((), True, ""),
        (("llm.backend=synthetic", "task.path=/home/victim", "llm.model=x"), True, ""),
        (("run.output=/home/victim/.profile",), True, ""),
        (("task.path=/" + "x/" * 499,), False, "task.path = '/x/x/"),
    ],
)  # fmt: skip
def test_what_a_log_does_not_decide(settings: tuple[str, ...], asks: bool, named: str) -> None:
    config = load("reviews", settings)
    if not named:
        assert configuration(of(config), None, asks) is config
        return
    with pytest.raises(ConfigurationError) as caught:
        configuration(of(config), None, asks)
    assert f"run.h5: its run used {named}" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert configuration(of(config), config, asks) == config


def test_only_places_are_taken_from_the_command_line() -> None:
    config = load("reviews", ("task.path=theirs", "run.iterations=50"))
    given = load(
        "reviews", ("task.path=mine", "run.iterations=90", "llm.timeout=5", "budget.calls=9")
    )
    found = configuration(of(config), given, asks_model=True)
    assert (found.task.path, found.llm.timeout) == ("mine", 5)
    assert (found.run.iterations, found.budget.calls) == (50, 0)
    with pytest.raises(ConfigurationError, match=r"--config: run\.h5 was made with steps\.lam"):
        configuration(of(config), load("reviews", ("steps.lam=9",)), asks_model=True)


def test_prompts_are_not_shown_from_files_that_a_log_names(tmp_path: Path) -> None:
    with serving(Manners()) as server:
        given = sets(*SETTINGS, f"llm.base_url={server.url}", "run.evaluate_every=1")
        asked = ["reviews", "--workers", "2", "--output", "run.h5", *given]
        assert asyndbt("simulate", *asked, folder=tmp_path).returncode == 0
    result = asyndbt("show", "run.h5", "--prompts", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--- worker 1\n" in result.stdout
    secret = tmp_path / "secret"
    secret.mkdir()
    rows = [json.dumps({"sentence1": f"the password is {n}", "label": n % 2}) for n in range(200)]
    for name in ("train.jsonl", "dev.jsonl"):
        (secret / name).write_text("\n".join(rows))
    renamed(tmp_path / "run.h5", 'path = ""', f'path = "{secret}"')
    result = asyndbt("show", "run.h5", "--prompts", folder=tmp_path)
    assert result.returncode == 2
    assert "password" not in result.stdout + result.stderr
    assert f"its run used task.path = {str(secret)!r}" in result.stderr
