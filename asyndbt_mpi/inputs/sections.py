"""The sections of a configuration: their keys, defaults, and what is allowed."""

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
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

VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")

LONGEST_ADDRESS = 2000

USUAL_WORKERS = 3
"""Where nothing else says how many there are."""

MOST_RACING = 1024
"""Prompts of a worker in the race at the end."""

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

FUNCTIONS = "synthetic", "python"
"""Back-ends that are functions in place of model and data."""


MOST_LABELS = Field(max_length=1000)
Labels = Annotated[
    Annotated[list[Text], MOST_LABELS, Tag("list")]
    | Annotated[dict[Text, Text], MOST_LABELS, Tag("table")],
    Discriminator(lambda labels: "table" if isinstance(labels, dict) else "list"),
]
"""By class number, or by value in the data."""


def _is_of_several(racing: int) -> int:
    if racing == 1:
        raise ValueError("one prompt is no race; give at least 2, or 0 for no race")
    return racing


class Section(BaseModel):
    """A table of the configuration file; unknown keys are errors."""

    # Strict: true is not 1, "7" is not 7.  Tracebacks do not quote input, which may be secret.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, hide_input_in_errors=True
    )


class Run(Section):
    """[run]: the run as a whole; `early_stopping_patience` counts evaluations, 0 is off.

    At the end up to `race` prompts of each worker race for the one that is tuned; 0 is off.

    A worker that owes an answer for `worker_timeout` seconds is lost; `signals` end the run
    cleanly, with status "interrupted".
    """

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(is_line)] = "run"
    seed: NonNegativeCount = 0
    iterations: Count = 100
    output: Annotated[str, Field(min_length=1), AfterValidator(is_path)] = "runs/{name}.h5"
    evaluate_every: NonNegativeCount = 0
    early_stopping_patience: NonNegativeCount = 0
    race: Annotated[int, Field(ge=0, le=MOST_RACING), AfterValidator(_is_of_several)] = 8
    worker_timeout: Positive = 1800.0
    signals: list[Literal["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT"]] = [
        "SIGTERM",
        "SIGUSR1",
    ]
    dtype: Literal["float64"] = "float64"

    @property
    def races(self) -> int:
        """The most prompts in a worker's race; 0 if nothing is evaluated."""
        return self.race if self.evaluate_every else 0

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
    lower_gradient: Literal["model", "black_box"] = "black_box"
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

    @property
    def pools(self) -> bool:
        """Workers share what their models know of words."""
        return self.lower_gradient == "model"

    @model_validator(mode="after")
    def _rounds_of_a_model_need_a_penalty(self) -> "Algorithm":
        if self.pools and not self.penalty:
            raise ValueError("lower_gradient = 'model' needs a penalty greater than 0")
        return self


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


class Wording(Section):
    """[task.wordings.NAME]: another way to ask; what it leaves out stays as in [task]."""

    template: Text = ""
    labels: Labels = []


class TaskSection(Section):
    """[task]: the data set (a shipped one by name, or a path), and its template and labels.

    A `path` is a file, of which a share of `split` is for judging, a folder, or a data set of the
    hub. `labels` are a list by class number, a table by value of the `label_column`, or taken from
    the data. A `wording`, one of the `wordings`, replaces template and labels. `calibration` takes
    a model's preference for some labels out of its scores; of a language model it defaults to
    `CALIBRATION`.
    """

    name: Line = "reviews"
    path: FilePath = ""
    template: Text = ""
    split: Annotated[float, Field(gt=0, lt=1)] = 0.3
    label_column: Annotated[str, Field(min_length=1), AfterValidator(is_line)] = "label"
    labels: Labels = []
    wording: Line = ""
    wordings: dict[Line, Wording] = {}
    train_per_class: Size = 10
    validation_per_class: Size = 10
    test: Annotated[int, Field(ge=0, le=MOST)] = 200
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    calibration: Calibration = "none"

    @model_validator(mode="before")
    @classmethod
    def _worded(cls, table: Any) -> Any:
        if not isinstance(table, dict) or not isinstance(table.get("wordings"), dict):
            return table
        chosen = table["wordings"].get(table.get("wording") or "")
        if isinstance(chosen, Wording):
            chosen = chosen.model_dump()
        if not isinstance(chosen, dict):
            return table
        return {**table, **{key: value for key, value in chosen.items() if value}}

    @model_validator(mode="after")
    def _wording_is_there(self) -> "TaskSection":
        if self.wording and self.wording not in self.wordings:
            names = ", ".join(self.wordings) or "none"
            raise ValueError(f"wording = {self.wording!r}: [task.wordings] has {names}")
        return self

    @property
    def rows_wanted(self) -> str:
        """Such as "task.test = 200 (the default)", which nobody may have asked for."""
        is_default = self.test == type(self).model_fields["test"].default
        return f"task.test = {self.test}{' (the default)' * is_default}"

    @property
    def label_texts(self) -> list[str]:
        """One per class; empty if they are to be taken from the data.

        Values of a table with the same label are one class.
        """
        return (
            list(dict.fromkeys(self.labels.values()))
            if isinstance(self.labels, dict)
            else list(self.labels)
        )


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
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
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
        return self.backend in FUNCTIONS

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

    @property
    def limits_calls(self) -> bool:
        """There is a limit that every call comes nearer to."""
        return bool(self.calls or self.tokens or self.cost)


class LogSection(Section):
    """[log]: `iterates` "all", or n for every n-th p, q and z; `compression` of the iterates.

    What was written is synced to disk every `sync_every` seconds; 0 for never. If it is `private`,
    q, losses of single samples and demonstrations stay with the workers, in the folder `home`,
    whose name may contain the log's path as {output}.
    """

    iterates: Literal["all"] | Count = "all"
    compression: Literal["none", "gzip", "lzf"] = "none"
    sync_every: NonNegative = 5.0
    private: bool = False
    home: Annotated[FilePath, Field(min_length=1)] = "{output}.home"
