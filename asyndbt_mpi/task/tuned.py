"""A tuned prompt away from its run: all that is needed to use it elsewhere, as one JSON file.

Scores are calibrated as those of the test rows were: the model's mean answer under this prompt is
stored with it, so that how a row is classified never depends on other rows.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Literal
from uuid import uuid4

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.fields import Line, Text
from asyndbt_mpi.inputs.files import check_encodable, read_file, shown
from asyndbt_mpi.inputs.sections import Calibration, TaskSection
from asyndbt_mpi.llm.base import LanguageModel, Prompt
from asyndbt_mpi.task.calibration import calibrated
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.template import Template

MOST_BYTES = 2**26
"""Of a file: more than any model reads."""

LARGEST_BIAS = 1e6
"""Nats."""


def _is_probable(logarithm: float) -> float:
    if not -LARGEST_BIAS <= logarithm <= LARGEST_BIAS:
        raise ValueError("must be a finite logarithm")
    return logarithm


Logarithm = Annotated[float, AfterValidator(_is_probable)]


def _is_encodable(text: str) -> str:
    check_encodable(text)
    return text


RowText = Annotated[str, AfterValidator(_is_encodable)]
"""As `dataset.load` takes it: with any line ends and control characters."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Demonstration(_Part):
    """The texts of a row by their names in the template, and the number of its class."""

    texts: dict[str, RowText]
    label: Annotated[int, Field(ge=0)]


class Tested(_Part):
    """How good the prompt was on ``rows`` that nobody tuned on, with a 95 % interval."""

    rows: int
    accuracy: float
    low: float
    high: float
    loss: float


class Model(_Part):
    """The language model that the prompt was tuned for; servers and keys are never written."""

    backend: Literal["transformers", "openai"]
    model: Line
    precision: Literal["float32", "bfloat16", "float16"]
    api: Literal["chat", "completion"]
    scores: Literal["auto", "logprobs", "answers"]


class Origin(_Part):
    """The run, and why this prompt of all: ``worker`` whose it is, and how it was ``chosen``."""

    run: Line
    worker: int
    chosen: Line
    data_digest: Line
    seed: int
    package_version: Line


class TunedPrompt(_Part):
    """A prompt, how its scores are calibrated, what it is for, and where it comes from.

    ``labels`` and ``label_column`` are as in [task]; ``demonstrations`` are in the order in which
    they are shown. ``bias`` and ``log_prior`` are (U,), or empty if ``calibration`` is "none".
    """

    format: Literal["asyndbt prompt 1"] = "asyndbt prompt 1"
    template: Text
    labels: list[Text] | dict[Text, Text]
    label_column: Line
    words: list[Text]
    demonstrations: list[Demonstration]
    calibration: Calibration
    bias: list[Logarithm]
    log_prior: list[Logarithm]
    model: Model
    tested: Tested | None
    origin: Origin

    @model_validator(mode="after")
    def _fits_together(self) -> "TunedPrompt":
        columns, classes = self._template.columns, len(self.task.label_texts)
        for each in self.demonstrations:
            if each.label >= classes:
                raise ValueError(f"a demonstration has label {each.label}, of {classes} labels")
            if missing := sorted(set(columns) - set(each.texts)):
                raise ValueError(f"a demonstration lacks {missing[0]}, which the template shows")
        due = 0 if self.calibration == "none" else classes
        for name in ("bias", "log_prior"):
            if len(getattr(self, name)) != due:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} numbers, but calibration ="
                    f" {self.calibration!r} and {classes} labels need {due}"
                )
        return self

    @property
    def task(self) -> TaskSection:
        """What a row is, and what its labels are."""
        return TaskSection(
            template=self.template, labels=self.labels, label_column=self.label_column
        )

    @property
    def _template(self) -> Template:
        return Template(self.template, self.task.label_texts)

    @property
    def columns(self) -> list[str]:
        """Those of a row that the template shows."""
        return self._template.columns

    def prompts(self, rows: Sequence[Row]) -> list[Prompt]:
        """What the model is to continue with a label, for the texts of each of the ``rows``."""
        template, words = self._template, self.words or None
        shown = [Row(each.texts, each.label) for each in self.demonstrations]
        context = template.context(shown, words)
        return [Prompt(context, template.render(row, words)) for row in rows]

    def log_probabilities(self, model: LanguageModel, rows: Sequence[Row]) -> FloatArray:
        """Of each label for each of the ``rows``, calibrated: (B, U).

        Raises
        ------
        ModelError
            As `LanguageModel`.
        """
        scores = model.label_log_probabilities(self.prompts(rows), self.task.label_texts)
        if self.calibration == "none":
            return scores.log_probabilities
        bias, log_prior = np.array(self.bias), np.array(self.log_prior)
        found: FloatArray = calibrated(scores.log_probabilities[None], bias[None], log_prior)[0]
        return found

    def to_json(self) -> str:
        """As `read_prompt` reads it."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def read_prompt(path: str | os.PathLike[str]) -> TunedPrompt:
    """The prompt in the file ``path``.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is no prompt; texts are not quoted.
    """
    try:
        return TunedPrompt.model_validate_json(read_file(path, MOST_BYTES))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {shown(os.fspath(path))}: {error.strerror}"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigurationError(
            f"{path}: is no prompt of `asyndbt prompt`: {where + ': ' if where else ''}{what}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"cannot read {shown(os.fspath(path))}: {error}") from error


# ---------------------------------------------------------------- for other programs


def as_text(prompt: TunedPrompt) -> str:
    """The whole prompt, with <column> in the place of the row's texts."""
    return _filled(prompt, {column: f"<{column}>" for column in prompt.columns})


def as_jinja(prompt: TunedPrompt) -> str:
    """A Jinja template; what looks like Jinja in the texts is kept as it is.

    Raises
    ------
    ConfigurationError
        A column's name is none in Jinja.
    """
    for column in prompt.columns:
        if not column.isidentifier():
            raise ConfigurationError(
                f"--format jinja: column {column!r} cannot be the name of a variable"
            )
    mark = uuid4().hex  # in no text
    parts = _filled(prompt, {column: mark + column + mark for column in prompt.columns})
    texts = [part.replace("{", "{{ '{' }}") for part in parts.split(mark)[::2]]
    names = [f"{{{{ {name} }}}}" for name in parts.split(mark)[1::2]]
    return "".join(chain.from_iterable(zip(texts, [*names, ""], strict=True)))


def as_request(prompt: TunedPrompt) -> str:
    """The body of a request to a server with OpenAI's interface, with {column} for the row."""
    text = _filled(prompt, {column: f"{{{column}}}" for column in prompt.columns})
    body: dict[str, object] = {"model": prompt.model.model}
    if prompt.model.api == "completion" or prompt.model.backend == "transformers":
        body["prompt"] = text
    else:
        body["messages"] = [{"role": "user", "content": text}]
    body |= {"max_tokens": 1 + max(map(len, prompt.task.label_texts)), "temperature": 0}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _filled(prompt: TunedPrompt, texts: Mapping[str, str]) -> str:
    (whole,) = prompt.prompts([Row(texts, label=0)])
    return whole.context + whole.query
