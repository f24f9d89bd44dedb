"""Zero-shot chain of thought (Kojima et al., NeurIPS 2022), in the words of the paper."""

from collections.abc import Mapping

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.baselines.conclusion import conclusion
from asyndbt_mpi.baselines.trial import Predict, Trial
from asyndbt_mpi.llm.base import LanguageModel
from asyndbt_mpi.llm.servers.written import of_label
from asyndbt_mpi.task.dataset import Row
from asyndbt_mpi.task.template import Template

REQUEST = " Let's think step by step, first output your analysis, and then output the final answer."
"""Appended to the prompt of `untuned.manual`."""

MOST_TOKENS = 256
"""Of an analysis with its answer."""


def zero_shot_cot(trial: Trial) -> Mapping[int, Predict]:
    """The model writes an analysis of each row, and the label that this ends with is its answer.

    Probabilities are those of written answers (docs/answers.md); without a label all are equal.
    They are not calibrated: an answer says which label is the most probable one, and no more.
    """
    model = trial.model()  # of all workers: they have the same test rows
    return {worker: _by_analysis(trial, model, worker) for worker in trial.data}


def _by_analysis(trial: Trial, model: LanguageModel, worker: int) -> Predict:
    template = trial.template

    def predict() -> FloatArray:
        prompts = [template.render(row, None) + REQUEST for row in trial.data[worker].test]
        written = model.write(prompts, MOST_TOKENS)
        named = []
        for text, cut in zip(written.texts, written.cut, strict=True):
            own = _of_this_row(text, template)
            named.append(conclusion(own, template.labels, cut and own == text))
        trial.details["answers without a label"] = named.count(None)
        trial.details["answers cut off"] = sum(written.cut)
        return np.array([_log_probabilities(each, len(template.labels)) for each in named])

    return predict


def _of_this_row(text: str, template: Template) -> str:
    """A text without further rows of the model's own making, which begin like a prompt."""
    no_row = Row(dict.fromkeys(template.columns, "\0"), 0)
    beginning = template.render(no_row, None).partition("\0")[0].strip()
    return text.partition(f"\n{beginning}")[0] if beginning else text


def _log_probabilities(named: int | None, count: int) -> FloatArray:
    if named is None:
        return np.full(count, -np.log(count))
    return of_label(named, count)
