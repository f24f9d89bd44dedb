"""What only Python code can provide: a function as the black box, a class as the estimator."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from asyndbt_mpi.algorithm.estimator import Estimator, EstimatorFactory
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import Config, ConfigurationError, check_written, difference, parse
from asyndbt_mpi.inputs.defaults import without_defaults
from asyndbt_mpi.inputs.sections import OWN_ESTIMATOR, Llm, TaskSection
from asyndbt_mpi.task.function import LossFunction, code_name

METHODS = "couple", "upper", "lower"


@dataclass(frozen=True, slots=True)
class Own:
    """A black box and an estimator from Python code; None for those of the configuration.

    ``estimator`` makes a `CheckedEstimator`, once `of` has checked it.
    """

    black_box: LossFunction | None = None
    estimator: EstimatorFactory | None = None
    estimator_name: str = ""

    @classmethod
    def of(cls, black_box: object = None, estimator: Any = None) -> "Own":
        """What the user has provided, checked.

        Raises
        ------
        ConfigurationError
            One of them is something else.
        """
        if black_box is not None and not isinstance(black_box, LossFunction):
            raise ConfigurationError(
                f"black_box is a {type(black_box).__name__}; it must be an"
                " adbt.LossFunction(loss, shapes, vocabulary)"
            )
        if estimator is None:
            return cls(black_box)
        if not callable(estimator):
            raise ConfigurationError(
                f"estimator is a {type(estimator).__name__}; it must be a class, or a function that"
                " makes an estimator from the shapes of p and q"
            )
        name = OWN_ESTIMATOR + code_name(estimator)

        def make(p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> Estimator:
            return CheckedEstimator(estimator, p_shape, q_shape)

        make((2, 2, 3), (2, 1, 4))  # report errors before anything is started
        return cls(black_box, make, name)

    def configured(self, config: Config) -> Config:
        """``config`` with the names of what is provided, in place of its own choices.

        Raises
        ------
        ConfigurationError
            The configuration asks for something that a function does not have.
        """
        tables = without_defaults(config.model_dump())
        if self.estimator is not None:
            tables["estimator"]["name"] = self.estimator_name
        if self.black_box is not None:
            if config.budget.tokens or config.budget.cost:
                raise ConfigurationError(
                    "budget.tokens and budget.cost must be 0: a function has calls but no tokens;"
                    " set budget.calls instead"
                )
            shapes = self.black_box.shapes
            tables["prompt"] = {
                "fragment_length": shapes.positions,
                "vocabulary": self.black_box.vocabulary,
                "vocabulary_size": shapes.words,
                "pool": shapes.pool,
            }
            tables["task"] = TaskSection(test=0).model_dump()
            tables["llm"] = Llm(backend="python").model_dump() | {"model": self.black_box.name}
        if self == Own():
            return config
        found = parse(tables, "the configuration")
        check_written(found, "the configuration")
        return found

    def check(self, config: Config) -> None:
        """Refuse a ``config`` that names something Python code must provide, and has not.

        Raises
        ------
        ConfigurationError
            It does; the message says how to provide it.
        """
        name = config.estimator.name
        if config.llm.backend == "python" and self.black_box is None:
            raise ConfigurationError(
                "llm.backend = 'python': the black box is a Python function, which no configuration"
                " can contain; run it from Python, with black_box= (docs/python.md)"
            )
        if name.startswith(OWN_ESTIMATOR) and self.estimator is None:
            raise ConfigurationError(
                f"estimator.name = {name!r}: the estimator is a Python class, which no"
                " configuration can contain; run it from Python, with estimator= (docs/python.md)"
            )

    def check_same(self, config: Config, path: str) -> None:
        """Refuse this if the run of the log at ``path``, with its ``config``, had something else.

        Raises
        ------
        ConfigurationError
            What the run had instead.
        """
        self.check(config)
        if found := difference(config, self.configured(config)):
            raise ConfigurationError(f"{path}: was made with {found}")


class CheckedEstimator:
    """A user's estimator, with a check on all of its results.

    Raises
    ------
    ConfigurationError
        Here and at every call: what is wrong with it, and what would be right.
    """

    def __init__(self, factory: Any, p_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> None:
        self.p_shape, self.q_shape = p_shape, q_shape
        try:
            self.estimator: Estimator = factory(p_shape, q_shape)
        except TypeError as error:
            raise ConfigurationError(
                "estimator: it could not be made from the shapes of p (W, M, N) and q (W, U, V):"
                f" {error}"
            ) from error
        for name in METHODS:
            if not callable(getattr(self.estimator, name, None)):
                raise ConfigurationError(
                    f"estimator: {type(self.estimator).__name__} has no method {name}; it needs"
                    f" state, {', '.join(METHODS)}, as in adbt.Estimator"
                )
        _ = self.state

    @property
    def state(self) -> list[FloatArray]:
        """See `Estimator`."""
        state = getattr(self.estimator, "state", None)
        workers = self.p_shape[0]
        if not isinstance(state, list | tuple) or not all(
            isinstance(array, np.ndarray)
            and array.dtype == np.float64
            and array.ndim
            and len(array) == workers
            for array in state
        ):
            raise ConfigurationError(
                "estimator: state must be a list of float64 arrays, each with one row for each of"
                f" the {workers} workers; [] if nothing is learnt"
            )
        return list(state)

    def couple(self, uniform: FloatArray) -> FloatArray:
        """See `Estimator`."""
        coupled = _checked("couple", self.estimator.couple(uniform), uniform.shape)
        if coupled.size and not (coupled.min() >= 0 and coupled.max() < 1):
            raise ConfigurationError("estimator: couple must return numbers in [0, 1)")
        return coupled

    def upper(
        self,
        members: IntArray,
        p: FloatArray,
        q: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """See `Estimator`."""
        both: object = self.estimator.upper(members, p, q, words, demonstrations, losses)
        if not (isinstance(both, tuple) and len(both) == 2):
            raise ConfigurationError(
                f"estimator: upper returned a {type(both).__name__}; it must be a pair, the"
                " gradients in p and in q"
            )
        return _checked("upper", both[0], p.shape), _checked("upper", both[1], q.shape)

    def lower(
        self,
        members: IntArray,
        p: FloatArray,
        words: IntArray,
        demonstrations: IntArray,
        losses: FloatArray,
    ) -> FloatArray:
        """See `Estimator`."""
        gradient = self.estimator.lower(members, p, words, demonstrations, losses)
        return _checked("lower", gradient, p.shape)


def _checked(method: str, returned: object, shape: tuple[int, ...]) -> FloatArray:
    if not isinstance(returned, np.ndarray) or returned.dtype != np.float64:
        found = f"a {type(returned).__name__}"
        if isinstance(returned, np.ndarray):
            found = f"an array of {returned.dtype}"
        raise ConfigurationError(
            f"estimator: {method} returned {found}; it must be a float64 array of shape {shape}"
        )
    if returned.shape != shape:
        raise ConfigurationError(
            f"estimator: {method} returned an array of shape {returned.shape}; it must have shape"
            f" {shape}"
        )
    if not np.isfinite(returned).all():
        raise ConfigurationError(
            f"estimator: {method} returned numbers that are not finite; gradients must be finite"
        )
    return returned
