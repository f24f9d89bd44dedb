"""The methods by name, in the order of the tables."""

from collections.abc import Callable

from asyndbt_mpi.assemble import Materials
from asyndbt_mpi.baselines import (
    adaicl,
    fedone,
    roberta,
    search,
    similar,
    tuned,
    untuned,
    zero_shot_cot,
)
from asyndbt_mpi.baselines.trial import Method
from asyndbt_mpi.config import Config
from asyndbt_mpi.task.partition import WorkerData

COMPARED: dict[str, Method] = {
    "roberta": roberta.roberta,
    "manual": untuned.manual,
    "zero_shot_cot": zero_shot_cot.zero_shot_cot,
    "random_icl": untuned.random_icl,
    "kate": similar.kate,
    "bdpl": tuned.bdpl,
    "adaicl": adaicl.adaicl,
    "cendbt": tuned.cendbt,
    "asyndbt": tuned.asyndbt,
    "calibrated": untuned.calibrated,
    "random_search": search.random_search,
    "successive_halving": search.successive_halving,
    "fedone": fedone.fedone,
    "local": tuned.local,
}
"""The paper's, and those that it leaves out."""

METHODS = COMPARED | {
    "synchronous": tuned.synchronous,
    "words_only": tuned.words_only,
    "demonstrations_only": tuned.demonstrations_only,
}
"""All of them."""

SEARCHES = "random_search", "successive_halving"
STEPS = "bdpl", "cendbt", "asyndbt", "fedone", "local", *(METHODS.keys() - COMPARED.keys())


def least_calls(method: str, config: Config, materials: Materials) -> int:
    """A lower bound of the calls of all workers: with fewer, ``method`` cannot begin.

    What references for calibration cost is not in it.
    """
    if method in STEPS:
        return config.estimator.samples * config.estimator.batch
    if method == "adaicl":
        return _of_each(materials, lambda held: sum(map(len, held.pool)))
    if method in SEARCHES:
        return _of_each(materials, lambda held: len(held.validation) + len(held.train))
    return 0


def _of_each(materials: Materials, rows: Callable[[WorkerData], int]) -> int:
    """Workers have equal shares of the calls: what all need if one has to score most ``rows``."""
    assert materials.data is not None
    return max(map(rows, materials.data.values())) * len(materials.data)
