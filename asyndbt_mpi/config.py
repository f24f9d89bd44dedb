"""The configuration: sections and keys of the TOML file, validated."""

import codecs
import difflib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from asyndbt_mpi.inputs.fields import (
    LONGEST,
    MOST,
    Count,
    FilePath,
    Line,
    NonNegative,
    NonNegativeCount,
    Positive,
    Price,
    Seconds,
    Size,
    Text,
    is_line,
    is_path,
)
from asyndbt_mpi.inputs.files import SHOWN, check_path, read_file, shown, size
from asyndbt_mpi.inputs.toml import MOST_BYTES, MOST_PARTS, MOST_WRITTEN_BYTES, has_long_key

LONGEST_LINE = 300
"""Characters shown of another program's error."""

MIRROR_STEPS = {"transformers": 20.0, "openai": 20.0, "synthetic": 1.0, "python": 1.0}
"""A multiplicative step moves by its size times the loss. Mean losses of a language model differ by
about a tenth of a nat between prompts, those of the synthetic backend by about 1; a Python function
is assumed to be like the latter."""

VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")

LONGEST_ADDRESS = 2000

SLOWEST = 0.001
"""Requests per minute."""

OWN_ESTIMATOR = "python: "
"""Prefix of the name of an estimator that Python code provides."""

OwnName = Annotated[
    str, Field(pattern=f"^{OWN_ESTIMATOR}.", max_length=300), AfterValidator(is_line)
]

OWN_BODY = {
    *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature"),
    *("logprobs", "top_logprobs", "n", "best_of", "stream", "stream_options", "echo", "suffix"),
}
"""Fields of a request that the program sets itself, or that change the form of the answers."""


Calibration = Literal["none", "batch", "content_free"]
"""How label scores are calibrated; see `task.calibration`."""


class ConfigurationError(ValueError):
    """Bad configuration or usage, in one line: what is wrong, and what would be right."""


class Section(BaseModel):
    """A table of the configuration file; unknown keys are errors."""

    # Strict: true is not 1, "7" is not 7.  Tracebacks do not quote input, which may be secret.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, hide_input_in_errors=True
    )


class Run(Section):
    """[run]: the run as a whole; `early_stopping_patience` counts evaluations, 0 is off.

    A worker that owes an answer for `worker_timeout` seconds is lost; `signals` end the run
    cleanly, with status "interrupted".
    """

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(is_line)] = "run"
    seed: NonNegativeCount = 0
    iterations: Count = 100
    output: Annotated[str, Field(min_length=1), AfterValidator(is_path)] = "runs/{name}.h5"
    evaluate_every: NonNegativeCount = 0
    early_stopping_patience: NonNegativeCount = 0
    worker_timeout: Positive = 1800.0
    signals: list[Literal["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT"]] = [
        "SIGTERM",
        "SIGUSR1",
    ]
    dtype: Literal["float64"] = "float64"

    @model_validator(mode="after")
    def _patience_needs_evaluation(self) -> "Run":
        if self.early_stopping_patience and not self.evaluate_every:
            raise ValueError("early_stopping_patience needs an evaluate_every greater than 0")
        return self


class Algorithm(Section):
    """[algorithm]: S, tau, the polyhedron and the duals; names as in Algorithm 1."""

    active_workers: Count = 1
    max_delay: NonNegativeCount = 10
    plane_period: Count = 10
    plane_until: NonNegativeCount = 1000
    lower_steps: Annotated[int, Field(ge=1, le=10_000)] = 3
    lower_participation: Literal["all", "quorum"] = "all"
    lower_distance: Literal["l1", "l2sq"] = "l1"
    penalty: NonNegative = 1.0
    robust_weight: NonNegative = 0.01
    tolerance: NonNegative = 0.05
    plane_threshold: NonNegative = 1e-3
    dual_bound: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    dual_regularisation: Literal["constant", "decay"] = "constant"
    dual_regularisation_floor: NonNegative = 0.01
    max_planes: Size = 20
    min_workers: Count = 1


class Steps(Section):
    """[steps]: `optimizer` moves p, q and z; duals and the lower level take plain steps.

    With the optimizer "mirror", p and q default to `MIRROR_STEPS`.
    """

    optimizer: Literal["adam", "sgd", "mirror"] = "mirror"
    p: Positive = 0.05
    q: Positive = 0.05
    z: Positive = 0.05
    lam: Positive = 0.1
    rho: Positive = 0.05
    lower_p: Positive = 0.05
    lower_z: Positive = 0.05


class EstimatorSection(Section):
    """[estimator]: I samples of a prompt, each scored on the same `batch` queries.

    "additive" learns a model of the loss and is meant for mirror steps. "exact" does not sample:
    the synthetic backend knows its gradients. "python: ..." names a class provided by Python code.
    """

    name: Literal["additive", "loo", "bdpl", "exact"] | OwnName = "additive"
    samples: Annotated[int, Field(ge=2, le=MOST)] = 8
    batch: Count = 10

    @property
    def losses(self) -> int:
        """I as the black box sees it: an exact answer is one loss."""
        return 1 if self.name == "exact" else self.samples


class PromptSection(Section):
    """[prompt]: M words out of N, and up to V demonstrations per class."""

    fragment_length: Size = 4
    vocabulary: FilePath | list[str] = "instructions"
    vocabulary_size: Size = 16
    pool: Size = 8


class TaskSection(Section):
    """[task]: the data set (a shipped one by name, or a folder), and its template and labels.

    `calibration` takes a model's preference for some labels out of its scores.
    """

    name: Line = "reviews"
    path: FilePath = ""
    template: Text = ""
    labels: Annotated[list[Text], Field(max_length=1000)] = []
    train_per_class: Size = 10
    validation_per_class: Size = 10
    test: Annotated[int, Field(ge=0, le=MOST)] = 200
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    calibration: Calibration = "none"


class Llm(Section):
    """[llm]: the black box. `cache` bounds the answers kept, 0 keeps none; `threads` 0 is auto.

    `cache_folder` also keeps answers on disk, in a folder whose name may contain the log's path as
    {output}; "" keeps none there. All workers must hold the same `model`, unless
    `model_may_differ`. `heterogeneity` is for the synthetic backend. The keys after it are for a
    server that speaks OpenAI's API: seconds per request, `requests_per_minute` of all workers
    together (0: no limit), prices per million tokens; `extra_body` is added to every request, as
    JSON. The backend "python" is a function provided by Python code, and `model` its name.
    """

    backend: Literal["transformers", "openai", "synthetic", "python"] = "transformers"
    model: FilePath = "smollm2-135m-instruct"
    model_may_differ: bool = False
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]{1,4})?)$")] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens_per_batch: Count = 4096
    cache: NonNegativeCount = 100_000
    cache_folder: FilePath = "{output}.cache"
    threads: Annotated[int, Field(ge=0, le=10_000)] = 0
    heterogeneity: Annotated[float, Field(ge=0, le=1)] = 0.2
    base_url: str = ""
    key_variable: str = ""
    api: Literal["chat", "completion"] = "chat"
    scores: Literal["auto", "logprobs", "answers"] = "auto"
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    timeout: Seconds = 60.0
    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    requests_per_minute: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    extra_body: dict[str, JsonValue] = {}
    input_price: Price = 0.0
    output_price: Price = 0.0

    @property
    def is_function(self) -> bool:
        """A function takes the place of model and data; its losses may have any sign."""
        return self.backend in ("synthetic", "python")

    @model_validator(mode="after")
    def _extra_body_leaves_the_programs_own(self) -> "Llm":
        if own := sorted(OWN_BODY & set(self.extra_body)):
            raise ValueError(f"extra_body must not contain {', '.join(own)}: the program sets it")
        return self

    @model_validator(mode="after")
    def _address_is_one_without_a_password(self) -> "Llm":
        # Validates the whole section, since the error of a single key would quote its value.
        if "@" in self.base_url:
            raise ValueError(
                "base_url must not contain a user or a password, because it is logged; put a key"
                " into an environment variable, named by key_variable"
            )
        if self.base_url and not _is_address(self.base_url):
            raise ValueError(
                "base_url must begin with http:// or https:// and name a server, as in"
                " 'http://localhost:8000/v1'"
            )
        # Not quoted: it may be the key itself, in the wrong place.
        if self.key_variable and not VARIABLE.fullmatch(self.key_variable):
            raise ValueError(
                "key_variable must be the name of an environment variable: letters, digits and _"
            )
        return self

    @model_validator(mode="after")
    def _pace_is_one(self) -> "Llm":
        if 0 < self.requests_per_minute < SLOWEST:
            raise ValueError(f"requests_per_minute must be 0, for no limit, or at least {SLOWEST}")
        return self

    @model_validator(mode="after")
    def _extra_body_is_text(self) -> "Llm":
        try:
            json.dumps(self.extra_body, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(
                "extra_body cannot be sent as JSON: it contains a number that is not finite, or"
                " text that is not UTF-8"
            ) from error
        return self


def _is_address(url: str) -> bool:
    # Checked here, because the parser of addresses ignores line breaks.
    if not (url.isascii() and url.isprintable()) or " " in url or len(url) > LONGEST_ADDRESS:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # malformed brackets or port
        return False


class Delay(Section):
    """[delay]: artificial seconds added to every assignment, drawn per worker.

    `trace` is a log from whose `compute_seconds` delays are drawn, worker by worker.
    """

    model: Literal["none", "constant", "lognormal", "pareto", "trace"] = "none"
    trace: FilePath = ""
    mean: Annotated[float, Field(ge=0, le=LONGEST)] = 0.0
    sigma: Annotated[float, Field(gt=0, le=20)] = 1.0
    slow_workers: NonNegativeCount = 0
    slow_factor: Annotated[float, Field(ge=1, le=LONGEST)] = 10.0

    @model_validator(mode="after")
    def _slow_needs_a_model(self) -> "Delay":
        if self.slow_workers and self.model == "none":
            raise ValueError("slow_workers needs a delay.model other than 'none'")
        if self.model == "trace" and not self.trace:
            raise ValueError("model 'trace' needs the key trace: a log to take the seconds from")
        if self.model != "trace" and self.trace:
            raise ValueError(f"trace needs model 'trace', but model is {self.model!r}")
        if self.model in ("constant", "lognormal", "pareto") and not self.mean:
            raise ValueError(f"model {self.model!r} needs a mean greater than 0, in seconds")
        if self.model == "trace" and self.mean:
            raise ValueError("mean cannot be set with model 'trace': a trace has its own")
        if self.slow_workers and self.mean * self.slow_factor > LONGEST:
            raise ValueError(f"mean times slow_factor must not exceed {LONGEST:g} seconds")
        return self


class Budget(Section):
    """[budget]: limits for the whole job, 0 for none; `cost` by the prices of [llm]."""

    calls: NonNegativeCount = 0
    tokens: NonNegativeCount = 0
    cost: NonNegative = 0.0
    seconds: NonNegative = 0.0


class LogSection(Section):
    """[log]: `iterates` "all", or n for every n-th p, q and z; `compression` of the iterates.

    What was written is synced to disk every `sync_every` seconds; 0 for never.
    """

    iterates: Literal["all"] | Count = "all"
    compression: Literal["none", "gzip", "lzf"] = "none"
    sync_every: NonNegative = 5.0


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
    log: LogSection = LogSection()

    @model_validator(mode="before")
    @classmethod
    def _steps_that_suit_the_losses(cls, tables: Any) -> Any:
        steps, llm = (tables.get(name, {}) for name in ("steps", "llm"))
        if not (isinstance(steps, dict) and isinstance(llm, dict)):
            return tables  # reported elsewhere
        backend = llm.get("backend", "transformers")
        size = MIRROR_STEPS.get(backend) if isinstance(backend, str) else None
        if size is None or steps.get("optimizer", "mirror") != "mirror":
            return tables
        return {**tables, "steps": {"p": size, "q": size, **steps}}

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

    Raises
    ------
    ConfigurationError
        One line with the key, its value, what is allowed and, for a typo, the nearest key.
    """
    table = _parsed(_read(source), source)
    for assignment in assignments:
        _assign(table, assignment)
    config = parse(table, source)
    check_written(config, source)
    return config


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
        known, what = _known(location)
        return f"unknown {what} {shown(name)}{_nearest(location[-1][:SHOWN], known)}"
    allowed = str(error["msg"]).removeprefix("Value error, ")
    allowed = allowed[:1].lower() + allowed[1:]
    if not location:
        return allowed  # about several sections, which it names
    if isinstance(error["input"], dict):
        return f"[{name}]: {allowed}"
    return f"{name} = {shown(error['input'])}: {allowed}"


def _known(location: list[str]) -> tuple[list[str], str]:
    if len(location) == 1:
        return list(Config.model_fields), "section"
    section: Section = getattr(Config(), location[0])
    return list(type(section).model_fields), "key"


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
