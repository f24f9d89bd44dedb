"""The methods by name, in the order of the tables."""

from asyndbt_mpi.baselines import search, tuned, untuned
from asyndbt_mpi.baselines.trial import Method

METHODS: dict[str, Method] = {
    "manual": untuned.manual,
    "random_icl": untuned.random_icl,
    "bdpl": tuned.bdpl,
    "cendbt": tuned.cendbt,
    "asyndbt": tuned.asyndbt,
    "calibrated": untuned.calibrated,
    "random_search": search.random_search,
    "successive_halving": search.successive_halving,
    "local": tuned.local,
}
