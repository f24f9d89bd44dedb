"""A Python function as the black box, and how a function is identified."""

import numbers
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import check_line, shown
from asyndbt_mpi.protocol.blackbox import Answer, AnyQuery, DataSizes, Query
from asyndbt_mpi.protocol.messages import Shapes, Split
from asyndbt_mpi.protocol.ranges import FREE_LOSS
from asyndbt_mpi.task.unquoted import unquoted
from asyndbt_mpi.task.vocabulary import load_vocabulary

Loss: TypeAlias = Callable[[int, IntArray, IntArray], Any]

LONGEST_NAME = 200
"""Characters."""

ONE_ROW = dict.fromkeys(Split, 1)
"""One row: a function averages over its own data."""


class LossFunction:
    """A Python function as the black box: all that is known about it is that it scores prompts.

    ``loss(worker, words, demonstrations)`` gets I prompts at once and returns I losses:

    - ``worker``, int from 1 to R: the worker on whose data the prompts are scored
    - ``words``, int array (I, M) of 0 to N-1: for each position an index into ``vocabulary``
    - ``demonstrations``, int array (I, U) of 0 to V-1: for each class one of V demonstrations
    - returned: I finite real numbers, in any unit; less is better. The same prompt must always get
      the same loss: replay, resume and verify rely on it.

    Parameters
    ----------
    loss : the function
    shapes : the sizes M, N, U and V
    vocabulary : N words or phrases, all different
    name : the function's name in the log, by which it is recognised when a run is resumed or
        replayed. By default the function's own name with a digest of its code. The digest does not
        cover data and other functions that it uses: if they may change, give a name that changes
        with them.

    Raises
    ------
    ConfigurationError
        Sizes and vocabulary do not match, or ``loss`` cannot be called.

    Examples
    --------
    >>> from asyndbt_mpi import LossFunction, Shapes
    >>> def loss(worker, words, demonstrations):
    ...     return (words != 0).sum(axis=1) + demonstrations.mean(axis=1)
    >>> box = LossFunction(loss, Shapes(4, 3, 2, 5), vocabulary=["kind", "short", "formal"])
    >>> box.name
    'loss, code ...'
    """

    def __init__(
        self, loss: Loss, shapes: Shapes, vocabulary: Sequence[str], name: str = ""
    ) -> None:
        if not callable(loss):
            raise ConfigurationError(
                f"black_box: loss is {_kind(loss)}, not a function of (worker, words,"
                " demonstrations)"
            )
        self.loss = loss
        self.shapes = _checked_shapes(shapes)
        words = [vocabulary] if isinstance(vocabulary, str) else list(vocabulary)
        if len(words) != shapes.words or not all(isinstance(word, str) for word in words):
            raise ConfigurationError(
                f"black_box: vocabulary has {len(words)} entries; it must be a list of"
                f" {shapes.words} words, as in shapes"
            )
        self.vocabulary = load_vocabulary([str(word) for word in words], shapes.words)
        self.name = _checked_name(name or code_name(loss))

    def of_workers(self, workers: Sequence[int], private: bool = False) -> "FunctionBlackBox":
        """The black box of the ``workers`` of this process; see `FunctionBlackBox`."""
        return FunctionBlackBox(self, workers, private)


class FunctionBlackBox:
    """A `LossFunction` shared by several workers; each prompt is one call, without tokens.

    If it is ``private``, the words of its exceptions, which may quote data, are not told.
    """

    def __init__(
        self, function: LossFunction, workers: Sequence[int], private: bool = False
    ) -> None:
        self.function = function
        self._guard = unquoted if private else nullcontext[None]
        shapes = function.shapes
        pool = np.full(shapes.classes, shapes.pool)
        self.data_sizes = {worker: DataSizes(pool, ONE_ROW) for worker in workers}
        self.descriptions = dict.fromkeys(workers, f"Python function {function.name}")
        self.digests = dict.fromkeys(workers, "")

    def answer(self, queries: Sequence[AnyQuery]) -> list[Answer]:
        """What the function returns for each query; nothing is classified, so accuracies are NaN.

        Raises
        ------
        ConfigurationError
            The function did not return one finite number per prompt.
        TypeError
            An exact gradient was requested.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: AnyQuery) -> Answer:
        if not isinstance(query, Query):
            raise TypeError("a function has no exact gradient")
        # Copies: the function may write into its arguments.
        words, shown = query.words.copy(), query.demonstrations.copy()
        with self._guard():
            returned = self.function.loss(query.worker, words, shown)
        prompts = len(query.words)
        losses = checked_losses(returned, query.worker, prompts)
        return Answer(losses, np.full(prompts, np.nan), prompts, prompt_tokens=0, prompts=prompts)


def checked_losses(returned: object, worker: int, prompts: int) -> FloatArray:
    """What a loss function ``returned`` for I = ``prompts`` prompts, as an array (I,).

    Raises
    ------
    ConfigurationError
        It is something else.
    """

    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(
            f"the loss function returned {what} for worker {worker}; it must return {prompts}"
            f" finite real numbers of shape ({prompts},), one per prompt"
        )

    try:
        array = np.asarray(returned)
    except Exception as error:  # of whatever library the object is
        raise wrong(f"{_kind(returned)}, which is not an array") from error
    if array.dtype.kind not in "fiu":
        raise wrong(f"{_kind(returned)} of dtype {array.dtype}")
    if array.shape != (prompts,):
        raise wrong(f"{_kind(returned)} of shape {array.shape}")
    losses: FloatArray = array.astype(np.float64)  # a copy: the function may reuse its array
    outside = np.flatnonzero(FREE_LOSS.outside(losses))
    if len(outside):
        raise wrong(f"{losses[outside[0]]} as the loss of prompt {outside[0]}")
    return losses


def _checked_shapes(shapes: Shapes) -> Shapes:
    if not isinstance(shapes, Shapes):
        raise ConfigurationError(
            f"black_box: shapes is {_kind(shapes)}, not a Shapes(positions, words, classes, pool)"
        )
    for name in ("positions", "words", "classes", "pool"):
        size = getattr(shapes, name)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigurationError(
                f"black_box: shapes.{name} = {shown(size)}: must be a whole number of at least 1"
            )
    return shapes


def _checked_name(name: str) -> str:
    try:
        check_line(name)
    except ValueError as error:
        raise ConfigurationError(f"black_box: name {error}") from error
    if len(name) > LONGEST_NAME:
        raise ConfigurationError(f"black_box: name has more than {LONGEST_NAME} characters")
    return name


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------- names


def code_name(called: object) -> str:
    """The name of a function or class with a digest of its compiled code.

    Comments, line numbers and the file do not matter; the version of Python may.
    """
    while isinstance(called, partial):
        called = called.func
    named = called if hasattr(called, "__qualname__") else type(called)
    name = str(getattr(named, "__qualname__", "function")).rpartition("<locals>.")[2]
    digest = blake2b(digest_size=4)
    for code in _codes(called):
        _add(digest, code)
    return f"{name}, code {digest.hexdigest()}"[:LONGEST_NAME]


def _codes(called: object) -> list[CodeType]:
    """The code of a function, of a method, or of all methods of a class or of an object's class."""
    function = getattr(called, "__func__", called)
    if isinstance(function, FunctionType):
        return [function.__code__]
    owner = called if isinstance(called, type) else type(called)
    methods = [
        getattr(member, "fget", None) or getattr(member, "__func__", member)
        for base in owner.__mro__
        for _, member in sorted(vars(base).items())
    ]
    return [each.__code__ for each in methods if isinstance(each, FunctionType)]


def _add(digest: "blake2b", code: CodeType) -> None:
    for part in (code.co_code, code.co_exceptiontable):
        digest.update(part)
    for names in (code.co_names, code.co_varnames, code.co_freevars):
        digest.update(repr(names).encode())
    for constant in code.co_consts:
        _add_constant(digest, constant)


def _add_constant(digest: "blake2b", constant: object) -> None:
    if isinstance(constant, CodeType):
        _add(digest, constant)
    elif isinstance(constant, tuple | frozenset):
        # The order of a set differs between processes.
        for each in constant if isinstance(constant, tuple) else sorted(constant, key=repr):
            _add_constant(digest, each)
    elif constant is None or isinstance(constant, numbers.Number | str | bytes):
        digest.update(f"{type(constant).__name__} {constant!r}".encode(errors="surrogatepass"))
    else:
        digest.update(type(constant).__name__.encode())
