import tomllib
import traceback
from pathlib import Path

import pytest

from asyndbt_mpi.config import Config, ConfigurationError, load, parse, presets


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_survive_a_round_trip(name: str) -> None:
    config = load(name)
    assert Config.from_toml(config.to_toml()) == config


def test_every_key_is_written_out() -> None:
    table = tomllib.loads(Config().to_toml())
    assert table["algorithm"]["max_delay"] == 10
    assert set(table) == set(Config.model_fields)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"algorithm": {"max_dealy": 3}}, "unknown key 'algorithm.max_dealy'; did you mean 'max_delay'?"),
        ({"algoritm": {}}, "unknown section 'algoritm'; did you mean 'algorithm'?"),
        ({"algorithm": {"zzz": 3}}, "unknown key 'algorithm.zzz'"),
        ({"algorithm": 3}, "algorithm = 3: "),
        ({"run": {"iterations": "many"}}, "run.iterations = 'many': input should be a valid integer"),
        ({"run": {"iterations": 0}}, "run.iterations = 0: input should be greater than or equal to 1"),
        ({"steps": {"p": -1.0}}, "steps.p = -1.0: input should be greater than 0"),
        ({"steps": {"p": float("nan")}}, "steps.p = nan: input should be a finite number"),
        ({"steps": {"optimizer": "adm"}}, "steps.optimizer = 'adm': input should be 'adam', 'sgd' or 'mirror'"),
        ({"estimator": {"samples": 1}}, "estimator.samples = 1: input should be greater than or equal to 2"),
        ({"delay": {"slow_workers": 1}}, "slow_workers needs a delay.model"),
        ({"run": {"early_stopping_patience": 2}}, "early_stopping_patience needs an evaluate_every"),
        ({"run": {"iterations": True}}, "run.iterations = True: input should be a valid integer"),
        ({"run": {"iterations": "7"}}, "run.iterations = '7': input should be a valid integer"),
        ({"run": {"seed": 10**30}}, "run.seed = 1000000000000000000000000000000: "),
        ({"log": {"iterates": "some"}}, "log.iterates = 'some': input should be"),
        ({"run": {"signals": ["SIGFOO"]}}, "run.signals = 'SIGFOO': input should be 'SIGTERM', 'SIGUSR1'"),
        ({"run": {"worker_timeout": 0}}, "run.worker_timeout = 0: input should be greater than 0"),
        ({"budget": {"calls": -1}}, "budget.calls = -1: input should be greater than or equal to 0"),
        ({"budget": {"cost": 3.0}}, "run.toml: budget.cost needs llm.input_price or llm.output_price"),
        ({"estimator": {"name": "exact"}}, "run.toml: estimator.name = 'exact' needs llm.backend"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_what_is_allowed(table, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(table, "run.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("run.toml: ")
    assert "\n" not in str(caught.value)


def test_assignments_override_and_are_typed() -> None:
    config = load(
        "synthetic",
        ["run.iterations=7", "run.name=other", "prompt.vocabulary=['a', 'b']", "steps.p=1"],
    )
    assert config.run.iterations == 7
    assert config.run.name == "other"
    assert config.prompt.vocabulary == ["a", "b"]
    assert config.steps.p == 1.0


@pytest.mark.parametrize("assignment", ["run.iterations", "iterations=3", "=", "run.=3"])
def test_a_malformed_assignment_says_the_form(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected section\.key=value"):
        load("synthetic", [assignment])


def test_a_missing_configuration_names_the_presets() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'synthetic'.*presets are .*demo"):
        load("synthetik")


def test_invalid_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[run]\nseed = = 3\n")
    with pytest.raises(ConfigurationError, match=r"not valid TOML.*line 2"):
        load(str(path))


def test_mirror_steps_suit_the_scale_of_the_losses() -> None:
    of = {"llm.backend=synthetic": 1.0, "llm.backend=transformers": 20.0}
    for assignment, size in of.items():
        steps = load("synthetic", [assignment, "steps.q=0.5"]).steps
        assert (steps.optimizer, steps.p, steps.q) == ("mirror", size, 0.5)
    for optimizer in ("adam", "sgd"):
        steps = load("synthetic", [f"steps.optimizer={optimizer}"]).steps
        assert (steps.p, steps.q) == (0.05, 0.05)
    assert parse({}, "test").steps.p == 20.0
    config = load("synthetic")
    assert Config.from_toml(config.to_toml()) == config


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "must begin with http:// or https://"),
        ("ftp://here/v1", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https:// and name a server"),
        ("http://[here", "must begin with"),
        ("http://here:port", "must begin with"),
        ("https://me:hunter2@here/v1", "must not hold a user or a password"),
        ("https://me:hun/ter2@here/v1", "must not hold a user or a password"),
        ("me:hunter2@here", "must not hold a user or a password"),
    ],
)
def test_an_address_is_one_and_a_password_is_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("demo", [f"llm.base_url={url}"])
    assert str(caught.value).startswith(f"demo: [llm]: base_url {message}")
    shown = "".join(traceback.format_exception(caught.value))
    assert "hun" not in shown
    assert "\n" not in str(caught.value)
