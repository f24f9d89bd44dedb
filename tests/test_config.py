import os
import time
import tomllib
import traceback
from pathlib import Path

import pytest

from asyndbt_mpi.config import Config, ConfigurationError, load, parse, presets
from asyndbt_mpi.inputs.toml import has_long_key


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
        ({"algorithm": {"zzz": 3}}, "unknown key 'algorithm.zzz'; [algorithm] has active_workers, max_delay, "),
        ({"run": {"max_delay": 3}}, "unknown key 'run.max_delay'; did you mean 'algorithm.max_delay'?"),
        ({"task": {"model": 3}}, "unknown key 'task.model'; did you mean 'llm.model' or 'delay.model'?"),
        ({"zzz": {"seed": 3}}, "unknown section 'zzz'; sections are run, algorithm, "),
        ({"seed": 3}, "unknown key 'seed'; did you mean 'run.seed'?"),
        ({"zzz": 3}, "unknown key 'zzz'; keys belong to a section: run, algorithm, "),
        ({"run": {"race": 1}}, "run.race = 1: one prompt is no race; give at least 2, or 0 for no race"),
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


@pytest.mark.parametrize(
    ("source", "assignments", "keys"),
    [
        ("synthetic", (), ""),
        ("synthetic", ("task.path=x", "llm.base_url=http://x", "task.test=9"), "task.path, llm.base_url"),
        ("synthetic", ("llm.model=x",), "llm.model"),
        ("demo", ("task.path=x", "llm.model=x", "llm.input_price=1"), ""),
        ("demo", ("llm.base_url=http://x", "llm.api=completion"), "llm.base_url, llm.api"),
        ("demo", ("llm.base_url=http://x", "llm.api=completion", "llm.backend=openai"), ""),
    ],
)  # fmt: skip
def test_places_that_are_given_but_not_used_are_told(source, assignments, keys: str) -> None:
    config = load(source, assignments)
    backend = config.llm.backend
    assert config.unused == (f"llm.backend = {backend!r} does not use {keys}" if keys else "")


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
    ("workers", "share", "liars"),
    [(10, 0.3, 3), (10, 0.29, 2), (4, 0.3, 1), (3, 0.3, 0), (1, 0.49, 0), (20, 0.49, 9)],
)
def test_liars_are_whole_and_fewer_than_half(workers: int, share: float, liars: int) -> None:
    defence = load("synthetic", [f"defence.malicious={share}"]).defence
    assert defence.tolerated(workers) == liars
    assert (f"up to {liars} malicious" in defence.in_words(workers)) == (liars > 0)
    assert ("as in the paper" in defence.in_words(workers)) == (liars == 0)


def test_nothing_comes_before_the_papers_sums_unless_it_is_asked_for() -> None:
    assert load("synthetic").defence.preaggregator == "nnm"
    paper = load("synthetic", ["defence.aggregator=rsa"]).defence
    assert paper.adds_up
    assert paper.tolerated(1000) == 0
    mixed = load("synthetic", ["defence.aggregator=rsa", "defence.preaggregator=nnm"]).defence
    assert mixed.tolerated(10) == 3


@pytest.mark.parametrize("default", ["none", "batch"])
@pytest.mark.parametrize(
    ("assignments", "calibrated"),
    [
        ([], True),
        (["llm.backend=openai"], True),
        (["estimator.batch=1"], False),
        (["llm.backend=synthetic"], False),
        (["llm.backend=python"], False),
    ],
)
def test_scores_are_calibrated_by_default_only_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch, default: str, assignments: list[str], calibrated: bool
) -> None:
    monkeypatch.setattr("asyndbt_mpi.inputs.defaults.CALIBRATION", default)
    config = load("demo", assignments)
    assert config.task.calibration == (default if calibrated else "none")
    assert Config.from_toml(config.to_toml()) == config
    for given in ("none", "batch"):
        found = load("demo", [*assignments, f"task.calibration={given}"])
        assert found.task.calibration == given


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "must begin with http:// or https://"),
        ("ftp://here/v1", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https:// and name a server"),
        ("http://[here", "must begin with"),
        ("http://here:port", "must begin with"),
        ("https://me:hunter2@here/v1", "must not contain a user or a password"),
        ("https://me:hun/ter2@here/v1", "must not contain a user or a password"),
        ("me:hunter2@here", "must not contain a user or a password"),
    ],
)
def test_an_address_is_one_and_a_password_is_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("demo", [f"llm.base_url={url}"])
    assert str(caught.value).startswith(f"demo: [llm]: base_url {message}")
    shown = "".join(traceback.format_exception(caught.value))
    assert "hun" not in shown
    assert "\n" not in str(caught.value)


def refusal(path: Path, content: bytes = b"", *assignments: str) -> str:
    """The one line that a configuration is refused with."""
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(str(path), assignments)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = " + b"[" * 20000 + b"]" * 20000, "nested too deeply"),
        (b"x = " + b"{a = " * 20000 + b"1" + b"}" * 20000, "nested too deeply"),
        (b"[run]\nseed = 1\nseed = 2\n", "Cannot overwrite a value (at line 3"),
        (b"[run]\n[run]\n", "Cannot declare ('run',) twice (at line 2"),
        (b"[run]\nseed = 1" + b"0" * 5000, "a number of thousands of digits"),
        (b"[run]\nseed = 1" + b"0" * 4000, "run.seed = 1000"),
        (b"[run]\nname = 0x" + b"f" * 5000, "run.name = (too long to show)"),
        (b"[run]\nname = 'a\xff'", "line 2 is not UTF-8 text"),
        (b"[run]\nname = 'a\0b'", "not valid TOML"),
        (b"\xef\xbb\xbf[run]\n", "it starts with a byte order mark"),
        (b'[run]\nname = "a\\nb"', "run.name = 'a\\nb': must not contain the control character '\\n'"),
        (b'[run]\nname = "a\\u0000b"', "must not contain the control character '\\x00'"),
        (b'[run]\nname = ""', "run.name = '': string should have at least 1 character"),
        (b'[run]\noutput = "' + b"x" * 5000 + b'"', "(5002 characters): a path must not have more"),
        (b'[run]\noutput = "' + b"x" * 300 + b'/a"', "no part of this path may have more than 255"),
        (b'[run]\noutput = "-rf"', "a path must not begin with -"),
        (b'[task]\ntemplate = "\\u001b"', "must not contain the control character '\\x1b'"),
        (b"[llm]\nextra_body = {x = nan}", "llm.extra_body = nan: input should be a finite number"),
        (b"[llm]\nbackend = [1]", "llm.backend = [1]: input should be"),
        (b"[llm]\nrequests_per_minute = 1e-9", "must be 0, for no limit, or at least"),
        (b"[delay]\nmean = 1e308", "less than or equal to 1000000"),
        (b"[delay]\nmodel = 'constant'\nmean = 1e5\nslow_workers = 1\nslow_factor = 1e5", "times"),
        (b"x = 1 # " + b"x" * 2**17, "it is larger than 128 KiB"),
        (b"a" + b".a" * 60000 + b" = 1", "a key has more than 8 parts"),
        (b"[a" + b".a" * 60000 + b"]", "a key has more than 8 parts"),
        (b"[[a" + b". 'a'" * 20000 + b"]]", "a key has more than 8 parts"),
        (b"x = {a" + b' . "a"' * 20000 + b" = 1}", "a key has more than 8 parts"),
        (b"x = '''it's a string''''\na" + b".a" * 50000 + b" = 1", "a key has more than 8 parts"),
        (b"[llm]\nextra_body = {a = " + b"{a = " * 40 + b"1" + b"}" * 41, "is nested too deeply"),
        (b"[llm]\nextra_body = {a = [[" + b"1," * 60000 + b"]]}", "exceeds 512 KiB with every key"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "c.toml", content)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe, zeros, loop = tmp_path / "pipe", tmp_path / "zeros", tmp_path / "loop"
    os.mkfifo(pipe)
    zeros.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    for path in (pipe, zeros):
        assert "it is a pipe or a device, not a regular file" in refusal(path)
    assert "Is a directory" in refusal(tmp_path)
    assert "symbolic links" in refusal(loop)
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(2**40)  # no more than its size is on the disk
    assert "it is larger than 128 KiB" in refusal(huge)


@pytest.mark.parametrize("source", ["a\0b", "a\nb", "\x1b[31m", "a" * 5000, "", "\ud800", "-x"])
def test_a_source_that_is_no_path(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(source)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", ["run.name", "run.output", "llm.model"])
@pytest.mark.parametrize("letter", ["\u202e", "\u200b", "\u2066", "\xad", "\ufeff", "\U000e0041"])
def test_names_are_seen_as_they_are(key: str, letter: str) -> None:
    with pytest.raises(
        ConfigurationError, match="must not contain the invisible character"
    ) as caught:
        load("synthetic", [f"{key}=a{letter}b"])
    assert str(caught.value).isprintable()


def test_texts_may_have_the_joiners_of_their_language() -> None:
    labels = '["\u0645\u06cc\u200c\u062f\u0627\u0646\u0645", "no"]'
    assert "\u200c" in load("demo", [f"task.labels={labels}"]).task.labels[0]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.iterations=1\nseed = 3", "expected one value, not several lines"),
        ("run.seed=1\n[llm]\nmodel = 'x'", "expected one value, not several lines"),
        ("run.seed=" + "[" * 20000, "nested too deeply"),
        ("run.seed=1" + "0" * 5000, "a number of thousands of digits"),
        ("run.name={a" + ".a" * 60000 + " = 1}", "a key has more than 8 parts"),
        ("a" + ".a" * 60000 + "=1", "unknown section"),
        ("run.name=a\nb", "must not contain the control character"),
        ("run.name=\ud800", "input should be a valid string"),
        ("\x1b[31m", "expected section.key=value"),
    ],
)
def test_an_assignment_sets_its_key_alone(assignment: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("synthetic", [assignment])
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url", ["http://x/\nHost: y", "http://x y/", "http://x/\t", "http://\u00e9/"]
)
def test_an_address_has_no_white_space(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url must begin with"):
        load("demo", [f"llm.base_url={url}"])


@pytest.mark.parametrize("assignment", ["llm.key_variable=sk-hunter2"])
def test_a_key_in_the_wrong_place_is_not_repeated(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match="must be the name of") as caught:
        load("demo", [assignment])
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["'{}'", '"{}"', "'''{}'''", '"""a""{}"""', '"\\"{}"', "'' # {}"])
def test_points_in_texts_are_no_keys(tmp_path: Path, value: str) -> None:
    path = tmp_path / "c.toml"
    dots = "a.b.c.d.e.f.g.h.i.j"
    path.write_text(f"[task]\ntemplate = {value.format(dots)}\nlabels = ['{dots}', '{dots}.k']\n")
    assert load(str(path)).task.labels == [dots, f"{dots}.k"]


@pytest.mark.parametrize("part", ['"', "'", '"""', '\\"""', '"a', "a.", ". ", "#", '"\\'])
def test_long_keys_are_looked_for_in_little_time(part: str) -> None:
    start = time.process_time()
    has_long_key(part * (2**20 // len(part)))
    assert time.process_time() - start < 2
