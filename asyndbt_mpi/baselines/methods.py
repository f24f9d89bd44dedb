"""The methods by name, in the order of the tables."""

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
