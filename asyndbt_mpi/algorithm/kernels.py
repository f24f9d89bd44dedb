"""The compiled inner loops, in which a run without a language model spends its time.

All work on stacks of matrices, one per worker, and on each of them separately: a worker's numbers
do not depend on which others are in the stack. Each is compiled at its first call, once per machine
(some ten seconds in all); numba keeps the result beside this file or in the user's cache folder.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

Kernel = TypeVar("Kernel", bound=Callable[..., object])

HELPERS: list[Callable[..., object]] = []
"""Functions that kernels call, until numba knows them."""


def helper(function: Kernel) -> Kernel:
    """The function, for kernels of the same file: what numba keeps is as old as the file."""
    HELPERS.append(function)
    return function


def compiled(kernel: Kernel) -> Kernel:
    """The function, compiled at its first call."""
    return _compiled(kernel, frozenset())


def reordered(kernel: Kernel) -> Kernel:
    """Like `compiled`, but vector units may reorder sums, and no number may be NaN.

    The last bits then depend on the kind of processor, never on the run.
    """
    return _compiled(kernel, frozenset({"reassoc", "nsz", "nnan"}))


def _compiled(kernel: Kernel, fastmath: frozenset[str]) -> Kernel:
    machine_code: Callable[..., object] | None = None

    @wraps(kernel)
    def run(*arguments: object) -> object:
        nonlocal machine_code
        if machine_code is None:
            machine_code = _machine_code(kernel, fastmath, arguments)
        return machine_code(*arguments)

    return cast(Kernel, run)


def _machine_code(
    kernel: Kernel, fastmath: frozenset[str], arguments: tuple[object, ...]
) -> Callable[..., object]:
    # Imported here: viewers do not need it, but for means of tests where workers may lie.
    import numba
    from numba.extending import register_jitable

    while HELPERS:
        register_jitable(HELPERS.pop())
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": set(fastmath)}
    try:
        kept = numba.njit(kernel, cache=True, **options)
        if kept is not kernel:  # as it is with NUMBA_DISABLE_JIT
            kept.compile(tuple(map(numba.typeof, arguments)))
    except (RuntimeError, OSError, EOFError):  # no folder, or no space, for the result
        return cast(Kernel, numba.njit(kernel, **options))
    return cast(Kernel, kept)


@compiled
def within(numbers: np.ndarray, least: float, most: float) -> bool:
    """Whether every one of ``numbers`` (n,) is from ``least`` to ``most``; NaN is not."""
    inside = 0
    for i in range(len(numbers)):  # by index: else it is not done in vector units
        if least <= numbers[i] and numbers[i] <= most:
            inside += 1
    return inside == len(numbers)


@reordered
def project(x: FloatArray, allowed: BoolArray) -> None:
    """Replace each row of x (W, rows, n) by the nearest probability vector, in place.

    Only the ``allowed`` entries (W, rows, n) may carry mass; if it has no rows, all may. The
    threshold nu of ``max(0, x - nu)`` is found by dropping entries below it until there are none
    (Michelot, 1986), which is exact.
    """
    stack, rows, size = x.shape
    shifted = np.empty(size)
    for w in range(stack):
        for i in range(rows):
            row = x[w, i]
            if allowed.shape[1]:
                for j in range(size):
                    if not allowed[w, i, j]:
                        row[j] = -np.inf
            # Shifting a row changes nothing, but huge numbers would swallow the 1 to be
            # distributed. After a shift by the largest, the threshold is at least -1.
            greatest = row[0]
            for j in range(size):
                greatest = max(greatest, row[j])
            for j in range(size):
                shifted[j] = row[j] - greatest
            threshold = -1.0
            before = size + 1
            while True:
                above = 0
                total = 0.0
                for j in range(size):
                    value = shifted[j]
                    if value > threshold:
                        total += value
                        above += 1
                # Rounding may bring an entry at the threshold back; stop then, too.
                if above >= before:
                    break
                before = above
                threshold = (total - 1.0) / above
            for j in range(size):
                row[j] = max(shifted[j] - threshold, 0.0)


@reordered
def distance_to_simplex(x: FloatArray) -> FloatArray:
    """Largest violation over the rows of each matrix of x (W, rows, n); shape (W,)."""
    stack, rows, size = x.shape
    distances = np.zeros(stack)
    for w in range(stack):
        for i in range(rows):
            total = -1.0
            least = 0.0
            for j in range(size):
                total += x[w, i, j]
                least = min(least, x[w, i, j])
            distances[w] = max(distances[w], abs(total), -least)
    return distances


@compiled
def sample(probabilities: FloatArray, uniform: FloatArray, drawn: IntArray) -> None:
    """Categories (W, I, rows) of ``uniform`` draws from rows of ``probabilities`` (W, rows, n)."""
    stack, rows, size = probabilities.shape
    cumulative = np.empty(size)
    for w in range(stack):
        for i in range(rows):
            total = 0.0
            last = 0  # the last with mass; rounding must not lead beyond it
            for j in range(size):
                total += probabilities[w, i, j]
                cumulative[j] = total
                if probabilities[w, i, j] > 0.0:
                    last = j
            for s in range(uniform.shape[1]):
                threshold = uniform[w, s, i] * total
                j = 0
                while j < last and cumulative[j] <= threshold:
                    j += 1
                drawn[w, s, i] = j


@compiled
def weigh_drawn(drawn: IntArray, weights: FloatArray, weighed: FloatArray) -> None:
    """Add to each category the ``weights`` (W, I) of the samples that have ``drawn`` it.

    ``weighed`` is (W, rows, n).
    """
    stack, samples, rows = drawn.shape
    for w in range(stack):
        for s in range(samples):
            for i in range(rows):
                weighed[w, i, drawn[w, s, i]] += weights[w, s]


@compiled
def leave_one_out(
    probabilities: FloatArray, drawn: IntArray, losses: FloatArray, means: FloatArray, least: float
) -> FloatArray:
    """Gradients (W, rows, n) of `estimator.leave_one_out`; none counts as under ``least``.

    ``drawn`` is (W, I, rows), ``losses`` (W, I), and ``means`` (W,) are those of the losses.
    """
    stack, samples, rows = drawn.shape
    size = probabilities.shape[2]
    gradient = np.zeros(probabilities.shape)
    for w in range(stack):
        for s in range(samples):
            weight = (losses[w, s] - means[w]) / (samples - 1)
            for i in range(rows):
                gradient[w, i, drawn[w, s, i]] += weight
        for i in range(rows):
            for j in range(size):
                gradient[w, i, j] /= max(probabilities[w, i, j], least)
    return gradient


@compiled
def adam(
    x: FloatArray,
    gradient: FloatArray,
    members: IntArray,
    first: FloatArray,
    second: FloatArray,
    powers: FloatArray,
    step_size: float,
    decays: tuple[float, float],
    stabiliser: float,
) -> tuple[FloatArray, bool]:
    """x (W, rows, n) after a step of Adam; also updates the moments of ``members``.

    ``first`` and ``second`` hold the moments of the whole stack, ``powers`` (members, 2) its
    ``decays`` to the power of each member's number of steps. Beside x it is returned whether the
    second moments of ``members`` are finite.
    """
    moved = np.empty(x.shape)
    finite = True
    rows, size = x.shape[1:]
    for w in range(len(members)):
        member = members[w]
        powers[member, 0] *= decays[0]
        powers[member, 1] *= decays[1]
        scale = step_size / (1.0 - powers[member, 0])
        correction = 1.0 / (1.0 - powers[member, 1])
        for i in range(rows):
            for j in range(size):
                slope = gradient[w, i, j]
                mean = decays[0] * first[member, i, j] + (1.0 - decays[0]) * slope
                square = decays[1] * second[member, i, j] + (1.0 - decays[1]) * slope * slope
                first[member, i, j] = mean
                second[member, i, j] = square
                finite &= square < np.inf  # which NaN is not
                spread = np.sqrt(square * correction) + stabiliser
                moved[w, i, j] = x[w, i, j] - scale * mean / spread
    return moved, finite


@reordered
def norms(x: FloatArray) -> FloatArray:
    """Euclidean norm of each matrix of x (W, rows, n); shape (W,)."""
    stack, rows, size = x.shape
    found = np.empty(stack)
    for w in range(stack):
        total = 0.0
        for i in range(rows):
            for j in range(size):
                total += x[w, i, j] * x[w, i, j]
        found[w] = np.sqrt(total)
    return found


@compiled
def weigh_planes(coefficients: np.ndarray, of: IntArray, dual: FloatArray) -> FloatArray:
    """Sums over planes of dual (L, M) times ``coefficients[of]`` (R, M, capacity, N); (W, M, N).

    The first L of the planes count.
    """
    _, positions, _, words = coefficients.shape
    sums = np.zeros((len(of), positions, words))
    for w in range(len(of)):
        for i in range(positions):
            row = sums[w, i]
            for plane in range(len(dual)):
                weight = dual[plane, i]
                if weight != 0.0:
                    of_plane = coefficients[of[w], i, plane]
                    for j in range(words):
                        row[j] += weight * of_plane[j]
    return sums


@reordered
def apply_planes(coefficients: np.ndarray, of: IntArray, x: FloatArray, terms: FloatArray) -> None:
    """Add to ``terms`` (L, M) the products of ``coefficients[of]`` and x (W, M, N).

    ``coefficients`` are (R, M, capacity, N); the first L of the planes count.
    """
    _, positions, _, words = coefficients.shape
    for w in range(len(of)):
        for i in range(positions):
            for plane in range(len(terms)):
                total = 0.0
                for j in range(words):
                    total += coefficients[of[w], i, plane, j] * x[w, i, j]
                terms[plane, i] += total


@reordered
def squared_distances(x: FloatArray) -> FloatArray:
    """Between all rows of x (n, d); (n, n).

    Of differences, not of products: those lose all digits where rows nearly agree.
    """
    n, size = x.shape
    found = np.zeros((n, n))
    for i in range(n):
        for k in range(i):
            total = 0.0
            for j in range(size):
                difference = x[i, j] - x[k, j]
                total += difference * difference
            found[i, k] = found[k, i] = total
    return found


@compiled
def means_within(x: FloatArray, distances: FloatArray, reach: FloatArray, count: int) -> FloatArray:
    """For each row of x (n, d) the mean of the ``count`` rows within its ``reach`` (n,); (n, d).

    ``distances`` (n, n) say how near they are; of rows just at the reach the first ones count.
    """
    n, size = x.shape
    means = np.zeros((n, size))
    for i in range(n):
        room = count
        for k in range(n):
            if distances[i, k] < reach[i]:
                room -= 1
        for k in range(n):
            if distances[i, k] == reach[i] and room > 0:
                room -= 1
            elif distances[i, k] >= reach[i]:
                continue
            for j in range(size):
                means[i, j] += x[k, j]
        for j in range(size):
            means[i, j] /= count
    return means
