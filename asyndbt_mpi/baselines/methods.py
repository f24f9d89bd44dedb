"""The methods by name, in the order of the tables."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyndbt_mpi.assemble import Materials
    from asyndbt_mpi.baselines.trial import Method
    from asyndbt_mpi.config import Config
    from asyndbt_mpi.task.partition import WorkerData

COMPARED = {
    "roberta": "roberta",
    "manual": "untuned",
    "zero_shot_cot": "zero_shot_cot",
    "random_icl": "untuned",
    "kate": "similar",
    "bdpl": "tuned",
    "adaicl": "adaicl",
    "cendbt": "tuned",
    "asyndbt": "tuned",
    "calibrated": "untuned",
    "random_search": "search",
    "successive_halving": "search",
    "fedone": "fedone",
    "local": "tuned",
}
"""The paper's, and those that it leaves out; which module has the function of that name."""

BUNDLED_ENCODER = "all-MiniLM-L6-v2"
"""The encoder of sentences that comes as a Python package; see `encoder`."""

METHODS = COMPARED | {
    "synchronous": "tuned",
    "words_only": "tuned",
    "demonstrations_only": "tuned",
}
"""All of them."""


def method(name: str) -> "Method":
    """That of the ``name``; its module is imported only now: `asyndbt --help` names them all."""
    found: Method = getattr(import_module(f"asyndbt_mpi.baselines.{METHODS[name]}"), name)
    return found


def least_calls(name: str, config: "Config", materials: "Materials") -> int:
    """A lower bound of the calls of all workers: with fewer, method ``name`` cannot begin.

    What references for calibration cost is not in it.
    """
    module = METHODS[name]
    if module in ("tuned", "fedone"):
        return config.estimator.samples * config.estimator.batch
    if module == "adaicl":
        return _of_each(materials, lambda held: sum(map(len, held.pool)))
    if module == "search":
        return _of_each(materials, lambda held: len(held.validation) + len(held.train))
    return 0


def _of_each(materials: "Materials", rows: Callable[["WorkerData"], int]) -> int:
    """Workers have equal shares of the calls: what all need if one has to score most ``rows``."""
    assert materials.data is not None
    return max(map(rows, materials.data.values())) * len(materials.data)
