"""The configuration: sections and keys of the TOML file, validated."""

import codecs
import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import (
    ValidationError,
    model_validator,
)

from asyndbt_mpi.inputs.defaults import unused_by_a_model, unused_by_the_backend, with_defaults
from asyndbt_mpi.inputs.files import SHOWN, check_path, read_file, shown, size
from asyndbt_mpi.inputs.sections import (
    USUAL_WORKERS,
    Algorithm,
    Budget,
    Delay,
    EstimatorSection,
    Llm,
    LogSection,
    PromptSection,
    Run,
    Section,
    Steps,
    TaskSection,
)
from asyndbt_mpi.inputs.toml import MOST_BYTES, MOST_PARTS, MOST_WRITTEN_BYTES, has_long_key
from asyndbt_mpi.inputs.trust import Adversary, Defence, Privacy

LONGEST_LINE = 300
"""Characters shown of another program's error."""


class ConfigurationError(ValueError):
    """Bad configuration or usage, in one line: what is wrong, and what would be right."""


class Config(Section):
    """The whole configuration of a run."""

    run: Run = Run()
    algorithm: Algorithm = Algorithm()
    steps: Steps = Steps()
    estimator: EstimatorSection = EstimatorSection()
    prompt: PromptSection = PromptSection()
    task: TaskSection = TaskSection()
    llm: Llm = Llm()
    delay: Delay = Delay()
    budget: Budget = Budget()
    defence: Defence = Defence()
    adversary: Adversary = Adversary()
    privacy: Privacy = Privacy()
    log: LogSection = LogSection()

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend_on_each_other(cls, tables: Any) -> Any:
        return with_defaults(tables)

    @model_validator(mode="after")
    def _model_needs_an_estimator_with_one(self) -> "Config":
        if self.algorithm.pools and self.estimator.name != "additive":
            raise ValueError("algorithm.lower_gradient = 'model' needs estimator.name = 'additive'")
        return self

    @model_validator(mode="after")
    def _models_are_not_private(self) -> "Config":
        if self.log.private and self.algorithm.pools:
            raise ValueError(
                "log.private = true needs algorithm.lower_gradient = 'black_box', because what"
                " workers tell of words gives away the losses of single samples"
            )
        return self

    @model_validator(mode="after")
    def _noise_needs_what_it_can_hide(self) -> "Config":
        if self.privacy.noise and not self.log.private:
            raise ValueError(
                "privacy.noise needs log.private = true, or single losses are told beside their"
                " noisy mean"
            )
        if self.privacy.noise and self.run.evaluate_every and self.task.test:
            raise ValueError(
                "privacy.noise needs task.test = 0, because a worker's scores of the test rows"
                " depend on its demonstrations, and would be told without noise"
            )
        if self.privacy.noise and self.estimator.name == "exact":
            raise ValueError("privacy.noise needs an estimator that samples: not 'exact'")
        return self

    @model_validator(mode="after")
    def _exact_needs_a_closed_form(self) -> "Config":
        if self.estimator.name == "exact" and self.llm.backend != "synthetic":
            raise ValueError("estimator.name = 'exact' needs llm.backend = 'synthetic'")
        return self

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> "Config":
        if self.budget.cost and not (self.llm.input_price or self.llm.output_price):
            raise ValueError("budget.cost needs llm.input_price or llm.output_price")
        return self

    @property
    def unused(self) -> str:
        """Which keys are set and not used, in one line; "" if there are none."""
        return unused_by_the_backend(self.model_dump(), Config().model_dump())

    @property
    def usual_workers(self) -> int:
        """R where none is given, `USUAL_WORKERS` or as many as the configuration needs."""
        algorithm, others = self.algorithm, (self.delay.slow_workers, self.adversary.needs)
        return max(USUAL_WORKERS, algorithm.active_workers, algorithm.min_workers, *others)

    def to_toml(self) -> str:
        """The resolved configuration, every key written out."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_toml(cls, text: str) -> "Config":
        """Inverse of `to_toml`."""
        return parse(_parsed(text, "the configuration"), "the configuration")


def presets() -> list[str]:
    """Names of the configurations that the package ships."""
    folder = resources.files("asyndbt_mpi") / "presets"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def load(source: str, assignments: Iterable[str] = ()) -> Config:
    """Read a TOML file or a preset, override keys by ``section.key=value``, and validate.

    Parameters
    ----------
    source : path of the file, or name of the preset
    assignments : the overrides

    Raises
    ------
    ConfigurationError
        One line with the key, its value, what is allowed and, for a typo, the nearest key.
    """
    table = _parsed(_read(source), source)
    config = load_table(table, assignments, source)
    if config.algorithm.pools and (key := unused_by_a_model(table)):
        raise ConfigurationError(
            f"{source}: {key} is used only with algorithm.lower_gradient = 'black_box'"
        )
    check_written(config, source)
    return config


def load_table(table: dict[str, Any], assignments: Iterable[str], source: str) -> Config:
    """Override keys of a table of tables by ``section.key=value``, and validate it.

    Raises
    ------
    ConfigurationError
        As `load`.
    """
    for assignment in assignments:
        _assign(table, assignment)
    return parse(table, source)


def check_written(config: Config, source: str) -> None:
    """Check that a log could hold the configuration, with every key written out.

    Raises
    ------
    ConfigurationError
        It is too long, or nested too deeply.
    """
    try:
        written = config.to_toml()
    except RecursionError as error:
        raise ConfigurationError(f"{source}: llm.extra_body is nested too deeply") from error
    if len(written.encode()) > MOST_WRITTEN_BYTES:
        raise ConfigurationError(
            f"{source}: exceeds {size(MOST_WRITTEN_BYTES)} with every key written out"
        )
    if has_long_key(written):
        raise ConfigurationError(f"{source}: llm.extra_body is nested too deeply")


def _parsed(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text."""
    if has_long_key(text):
        raise ConfigurationError(f"{source}: a key has more than {MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{source}: not valid TOML: {str(error)[:LONGEST_LINE]}"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{source}: not valid TOML: nested too deeply") from error
    except ValueError as error:  # the parser does not convert this
        raise ConfigurationError(
            f"{source}: not valid TOML: a number of thousands of digits, or an invalid date"
        ) from error


def _read(source: str) -> str:
    if source in presets():
        return (resources.files("asyndbt_mpi") / "presets" / f"{source}.toml").read_text("utf-8")
    try:
        check_path(source)
        content = read_file(source, MOST_BYTES)
        if content.startswith(codecs.BOM_UTF8):
            raise ValueError("it starts with a byte order mark: save it as UTF-8 without one")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{shown(source)} is neither a configuration file nor a preset"
            f"{_nearest(source, presets())}; presets are {', '.join(presets())}"
        ) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"cannot read {source}: line {line} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {shown(source)}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"cannot read {shown(source)}: {error}") from error


def _assign(table: dict[str, Any], assignment: str) -> None:
    """Put ``section.key=value`` into ``table``; the value is TOML, or else a bare string."""
    path, separator, written = assignment.partition("=")
    section, dot, key = path.strip().partition(".")
    quoted = shown(assignment)
    if not (separator and dot and section and key):
        raise ConfigurationError(f"--set {quoted}: expected section.key=value")
    value: Any = written
    try:
        values = _parsed(f"value = {written}", f"--set {quoted}")
    except ConfigurationError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise
    else:
        if set(values) != {"value"}:
            raise ConfigurationError(f"--set {quoted}: expected one value, not several lines")
        value = values["value"]
    if not isinstance(table.setdefault(section, {}), dict):
        raise ConfigurationError(f"[{section}] must be a table, not {shown(table[section])}")
    table[section][key] = value


def parse(table: Mapping[str, Any], source: str) -> Config:
    """Validate a table of tables.

    Raises
    ------
    ConfigurationError
        For the first key that is wrong.
    """
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigurationError(f"{source}: {_explain(first)}") from error


def _explain(error: Mapping[str, Any]) -> str:
    """One validation error in one line."""
    # Only the section and the key are the user's words; deeper parts name pydantic's branches.
    location = [str(part) for part in error["loc"][:2]]
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown {_unknown(location, error['input'])}"
    allowed = str(error["msg"]).removeprefix("Value error, ")
    allowed = allowed[:1].lower() + allowed[1:]
    if not location:
        return allowed  # about several sections, which it names
    if isinstance(error["input"], dict):
        return f"[{name}]: {allowed}"
    return f"{name} = {shown(error['input'])}: {allowed}"


def _unknown(location: list[str], value: Any) -> str:
    """A section or key, and what may have been meant: a near one, or else what there is."""
    sections = Config().model_dump()
    name = location[-1][:SHOWN]
    places = [f"{section}.{name}" for section, keys in sections.items() if name in keys]
    meant = f"; did you mean {' or '.join(map(repr, places))}?" if places else ""
    if len(location) > 1:
        known = sections[location[0]]
        meant = meant or _nearest(name, known) or f"; [{location[0]}] has {', '.join(known)}"
        return f"key {shown('.'.join(location))}{meant}"
    if isinstance(value, dict):
        meant = _nearest(name, sections) or f"; sections are {', '.join(sections)}"
        return f"section {shown(name)}{meant}"
    meant = meant or f"; keys belong to a section: {', '.join(sections)}"
    return f"key {shown(name)}{meant}"


def with_choices_of(config: Config, run: Config) -> Config:
    """``config``, with the labels and the precision of a ``run`` where it leaves them open.

    The data that the labels are from may have changed since: that shows in their digest.
    """
    task, llm = config.task, config.llm
    if not (task.labels or llm.is_function):
        task = task.model_copy(update={"labels": run.task.labels})
    if llm.precision == "auto":
        llm = llm.model_copy(update={"precision": run.llm.precision})
    return config.model_copy(update={"task": task, "llm": llm})


def difference(
    old: Config, new: Config, besides: Mapping[str, Collection[str]] | None = None
) -> str | None:
    """The first key, except for those in ``besides``, that differs, with both values."""
    before, after = old.model_dump(), new.model_dump()
    for section, keys in before.items():
        for key, value in keys.items():
            if key not in (besides or {}).get(section, ()) and value != after[section][key]:
                return f"{section}.{key} = {shown(value)}, not {shown(after[section][key])}"
    return None


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
