"""The compiled steps of the additive model (see `additive`), one worker after the other.

``members`` (W,) are the workers' places in arrays of the whole stack, which are changed in place.
Sums are added up in numpy's order, whatever a compiler would make of them: iterates do not depend
on who adds.
"""

import numpy as np

from asyndbt_mpi.algorithm.kernels import compiled, helper
from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray

LANES = 128
"""Numbers that are added up in one go."""

# ---------------------------------------------------------------- for all of them


@helper
def in_lanes(values: FloatArray, start: int, size: int) -> float:
    """Sum of so many ``values`` from ``start``, eight at a time."""
    total = 0.0
    end = start + size - size % 8
    if size >= 8:
        a, b, c, d = values[start], values[start + 1], values[start + 2], values[start + 3]
        e, f, g, h = values[start + 4], values[start + 5], values[start + 6], values[start + 7]
        for j in range(start + 8, end, 8):
            a += values[j]
            b += values[j + 1]
            c += values[j + 2]
            d += values[j + 3]
            e += values[j + 4]
            f += values[j + 5]
            g += values[j + 6]
            h += values[j + 7]
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for j in range(end, start + size):
        total += values[j]
    return total


@helper
def pairwise(values: FloatArray, size: int) -> float:
    """Sum of the first so many ``values``: of many the sum of both halves' sums.

    Not by recursion: what numba keeps of that does not work when it is loaded again.
    """
    if size <= LANES:
        return in_lanes(values, 0, size)
    # Parts to be added up, the next one last, and sums that wait for that of the other half.
    parts, levels = np.empty(64, np.int64), np.empty(64, np.int64)
    sums, waiting = np.empty(64), np.empty(64, np.int64)
    parts[0], levels[0] = size, 0
    left, held, start = 1, 0, 0
    while left:
        left -= 1
        part, level = parts[left], levels[left]
        if part > LANES:
            half = part // 2
            half -= half % 8
            parts[left], parts[left + 1] = part - half, half
            levels[left] = levels[left + 1] = level + 1
            left += 2
            continue
        total = in_lanes(values, start, part)
        start += part
        while held and waiting[held - 1] == level:
            held -= 1
            level -= 1
            total = sums[held] + total
        sums[held], waiting[held] = total, level
        held += 1
    return float(sums[0])


@helper
def of_prompt(values: FloatArray, entries: IntArray, taken: FloatArray) -> float:
    """Sum of the ``values`` at a prompt's ``entries`` (rows,); ``taken`` (rows,) is scratch."""
    for i in range(len(entries)):
        taken[i] = values[entries[i]]
    return pairwise(taken, len(entries))


@helper
def median(values: FloatArray) -> float:
    """Of an even number the mean of the two in the middle."""
    # Inserted one by one: samples are few, and numba takes seconds to compile np.sort.
    ordered = values.copy()
    for i in range(1, len(ordered)):
        value, j = ordered[i], i
        while j > 0 and ordered[j - 1] > value:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = value
    middle = len(values) // 2
    if len(values) % 2:
        return float(ordered[middle])
    return float(ordered[middle - 1] + ordered[middle]) / 2.0


@helper
def centre(values: FloatArray, middle: float, size: int) -> None:
    """Take ``middle`` from the first so many ``values``; numba takes long to compile ``-=``."""
    for i in range(size):
        values[i] -= middle


@helper
def posterior(
    precision: float,
    information: float,
    others_precision: float,
    others_information: float,
    spread: float,
    prior: float,
) -> tuple[float, float]:
    """An effect and its variance by what a worker and the others know; see `pooling`.

    At a ``spread`` as large as the ``prior`` the others do not count.
    """
    mean, variance = 0.0, prior
    if spread < prior:
        common = 1.0 / (others_precision + 1.0 / prior)
        mean, variance = others_information * common, min(spread + common, prior)
    narrowed = 1.0 / (precision + 1.0 / variance)
    return (information + mean / variance) * narrowed, narrowed


# ---------------------------------------------------------------- what everybody knows


@compiled
def mixed(
    precision: FloatArray,
    information: FloatArray,
    others_precision: FloatArray,
    others_information: FloatArray,
    weights: FloatArray,
    spreads: FloatArray,
    prior: float,
) -> FloatArray:
    """Effects (W, M, N) by what workers and the others know, all (W, M, N).

    Each is the mean by the ``weights`` (W, G) of those by each of the ``spreads`` (G,).
    """
    effects = np.zeros(precision.shape)
    workers, positions, words = precision.shape
    for w in range(workers):
        for g in range(len(spreads)):
            for i in range(positions):
                for j in range(words):
                    effect, _ = posterior(
                        precision[w, i, j], information[w, i, j], others_precision[w, i, j],
                        others_information[w, i, j], spreads[g] * prior, prior,
                    )  # fmt: skip
                    effects[w, i, j] += effect * weights[w, g]
    return effects


@compiled
def known(
    effects: FloatArray,
    variances: FloatArray,
    others: FloatArray,
    members: IntArray,
    weights: FloatArray,
    spreads: FloatArray,
    prior: float,
) -> tuple[FloatArray, FloatArray]:
    """`mixed` effects of ``members``, and their variances, both (W, M N + U V).

    Of demonstrations the others know nothing; what they know of words is ``others`` (2, stack,
    M N).
    """
    size = effects.shape[1]
    words = others.shape[2]
    means, spread_of = np.empty((len(members), size)), np.empty((len(members), size))
    for w in range(len(members)):
        member = members[w]
        for j in range(words):
            means[w, j] = spread_of[w, j] = 0.0
        for g in range(len(spreads)):
            for j in range(words):
                own = 1.0 / variances[member, j]
                effect, variance = posterior(
                    max(own - 1.0 / prior, 0.0), effects[member, j] * own, others[0, member, j],
                    others[1, member, j], spreads[g] * prior, prior,
                )  # fmt: skip
                means[w, j] += effect * weights[w, g]
                spread_of[w, j] += variance * weights[w, g]
        for j in range(words, size):
            means[w, j], spread_of[w, j] = effects[member, j], variances[member, j]
    return means, spread_of


@compiled
def judge(
    effects: FloatArray,
    variances: FloatArray,
    others: FloatArray,
    scale: FloatArray,
    scores: FloatArray,
    members: IntArray,
    entries: IntArray,
    positions: int,
    losses: FloatArray,
    spreads: FloatArray,
    constants: tuple[float, float, float],
) -> None:
    """Hold the predictions of each of ``spreads`` against ``losses`` (W, I): the new ``scores``.

    ``entries`` (W, I, rows) are what was drawn, of words in the first ``positions``.
    ``constants``: the prior, the share that is forgotten, and the bound of an error in units of its
    usual size.
    """
    prior, forgotten, outlier = constants
    samples, rows = entries.shape[1:]
    taken, errors, bounded = np.empty(rows), np.empty(samples), np.empty(samples)
    for w in range(len(members)):
        member = members[w]
        usual = scale[member, 0]
        for g in range(len(spreads)):
            for s in range(samples):
                for i in range(positions):
                    j = entries[w, s, i]
                    own = 1.0 / variances[member, j]
                    taken[i], _ = posterior(
                        max(own - 1.0 / prior, 0.0), effects[member, j] * own,
                        others[0, member, j], others[1, member, j], spreads[g] * prior, prior,
                    )  # fmt: skip
                predicted = pairwise(taken, positions)
                shown = of_prompt(effects[member], entries[w, s, positions:], taken)
                errors[s] = losses[w, s] - shown - predicted
            middle = median(errors)
            for s in range(samples):
                bounded[s] = min((errors[s] - middle) ** 2, outlier**2 * usual)
            surprise = 0.0  # before the first assignment nothing predicts anything
            if usual > 0.0:
                surprise = pairwise(bounded, samples) / (2.0 * usual)
            scores[member, g] = (1.0 - forgotten) * scores[member, g] + surprise


# ---------------------------------------------------------------- learning


@compiled
def surprises(
    effects: FloatArray,
    variances: FloatArray,
    scale: FloatArray,
    members: IntArray,
    entries: IntArray,
    losses: FloatArray,
    constants: tuple[float, float, float, float, float],
) -> tuple[FloatArray, FloatArray]:
    """Residuals (W, I) of ``losses`` (W, I), clipped and centred, and their covariance (W, I, I).

    Their middle and their usual size, whose square is ``scale`` (stack, 1), are medians: one sample
    of a prompt that is out of all proportion, in the very first assignment even, must not set the
    scale for all that follow. ``constants`` are those of `additive`: `ROUNDING`, `MEDIAN_SQUARE`,
    `OUTLIER`, `AGREEING`, `SCALE_RATE`.
    """
    rounding, median_square, outlier, agreeing, rate = constants
    workers, samples, rows = entries.shape
    residuals, covariance = np.empty((workers, samples)), np.empty((workers, samples, samples))
    squares, taken, shared = np.empty(samples), np.empty(rows), np.empty((samples, samples))
    for w in range(workers):
        member = members[w]
        residual = residuals[w]
        largest = 0.0
        for s in range(samples):
            residual[s] = losses[w, s] - of_prompt(effects[member], entries[w, s], taken)
            largest = max(largest, abs(losses[w, s]))
        centre(residual, median(residual), samples)
        for s in range(samples):
            squares[s] = residual[s] ** 2
        square = median(squares) / median_square
        if not square > (rounding * largest) ** 2:
            square = 0.0
        usual = scale[member, 0]
        if not usual > 0.0:
            usual = square
        bound = outlier * np.sqrt(usual)
        for s in range(samples):
            residual[s] = min(max(residual[s], -bound), bound)
            squares[s] = residual[s] ** 2
        # Equal samples, as when p and q are concentrated, say nothing about the noise.
        if square > agreeing * usual:
            usual += rate * (pairwise(squares, samples) / samples - usual)
        scale[member, 0] = usual
        centre(residual, pairwise(residual, samples) / samples, samples)
        for s in range(samples):
            for t in range(samples):
                for i in range(rows):
                    j = entries[w, s, i]
                    taken[i] = variances[member, j] if entries[w, t, i] == j else 0.0
                shared[s, t] = pairwise(taken, rows)
            centre(shared[s], pairwise(shared[s], samples) / samples, samples)
        for t in range(samples):
            total = 0.0
            for s in range(samples):
                total += shared[s, t]
            for s in range(samples):
                covariance[w, t, s] = shared[s, t] - total / samples
            # The centred noise has the covariance I - 11'/I, which on centred vectors is that of I.
            covariance[w, t, t] += 1.0
    return residuals, covariance


@compiled
def learn(
    effects: FloatArray,
    variances: FloatArray,
    members: IntArray,
    entries: IntArray,
    residuals: FloatArray,
    inverse: FloatArray,
    drift: float,
    prior: float,
) -> None:
    """The filter's step: ``effects`` and ``variances`` by the ``residuals`` (W, I).

    ``inverse`` (W, I, I) is that of their covariance.
    """
    workers, samples, rows = entries.shape
    size = effects.shape[1]
    products = np.empty(samples)
    for w in range(workers):
        effect, variance = effects[members[w]], variances[members[w]]
        moves, known = np.zeros(size), np.zeros(size)
        precision = inverse[w] - 1.0 / samples
        for s in range(samples):
            for t in range(samples):
                products[t] = precision[s, t] * residuals[w, t]
            weight = pairwise(products, samples)
            for i in range(rows):
                j = entries[w, s, i]
                learnt = 0.0
                for t in range(samples):
                    if entries[w, t, i] == j:
                        learnt += precision[s, t]
                moves[j] += weight
                known[j] += learnt
        for j in range(size):
            # Samples are forgotten, not their mean: see `Additive._own`.
            effect[j] = (effect[j] + moves[j] * variance[j]) * (1.0 - drift)
            narrowed = variance[j] - known[j] * variance[j] * variance[j]
            variance[j] = narrowed + drift * (prior - narrowed)


@compiled
def remember(
    effects: FloatArray,
    sampled: FloatArray,
    residuals: FloatArray,
    members: IntArray,
    entries: IntArray,
    first: IntArray,
    losses: FloatArray,
    believed: float,
) -> None:
    """Keep in ``sampled`` the best of the prompts drawn and of those before, with ``residuals``.

    ``first`` (rows,) is where each row of a prompt begins among the ``entries`` (W, I, rows).
    """
    workers, samples, rows = entries.shape
    kept = sampled.shape[1]
    number = samples + kept
    prompts, values = np.empty((number, rows), np.int64), np.empty(number)
    residual, taken, left = np.empty(number), np.empty(rows), np.empty(number, np.bool_)
    for w in range(workers):
        member = members[w]
        for s in range(samples):
            for i in range(rows):
                prompts[s, i] = entries[w, s, i]
            residual[s] = losses[w, s] - of_prompt(effects[member], entries[w, s], taken)
        # A mean would give one very bad sample's difference to all the others.
        centre(residual, median(residual[:samples]), samples)
        for k in range(kept):
            residual[samples + k] = residuals[member, k]
            for i in range(rows):
                index = int(sampled[member, k, i])
                prompts[samples + k, i] = -1 if index < 0 else first[i] + index
        for k in range(number):
            values[k] = np.inf
            if prompts[k, 0] < 0:
                continue
            again = False  # of one that was drawn before, the newest residual counts
            for other in range(k):
                same = 0
                while same < rows and prompts[other, same] == prompts[k, same]:
                    same += 1
                if same == rows:
                    again = True
                    break
            if not again:
                value = of_prompt(effects[member], prompts[k], taken)
                values[k] = value + believed * residual[k]
        for k in range(number):
            left[k] = True
        for k in range(kept):
            best = -1
            for other in range(number):
                if left[other] and (best < 0 or values[other] < values[best]):
                    best = other
            left[best] = False
            residuals[member, k] = residual[best]
            there = np.isfinite(values[best])
            for i in range(rows):
                sampled[member, k, i] = float(prompts[best, i] - first[i]) if there else -1.0


# ---------------------------------------------------------------- exploring


@compiled
def choose(
    drawn: IntArray,
    chosen: BoolArray,
    effects: FloatArray,
    deviations: FloatArray,
    normal: FloatArray,
    allowed: BoolArray,
) -> None:
    """Replace the ``chosen`` of ``drawn``, both (I, rows), by the best category of their row.

    Best by ``effects`` (rows, n) with ``deviations`` (rows, n) times ``normal`` (chosen, n), of
    those ``allowed`` (rows, n).
    """
    number = 0
    for s in range(drawn.shape[0]):
        for i in range(drawn.shape[1]):
            if not chosen[s, i]:
                continue
            best, least = 0, np.inf
            for j in range(effects.shape[1]):
                value = effects[i, j] + deviations[i, j] * normal[number, j]
                if allowed[i, j] and value < least:
                    best, least = j, value
            drawn[s, i] = best
            number += 1
