"""The Gaussian mechanism: noise on a worker's losses, from which all that it tells then follows.

An answer of the black box is one release: the losses of the I samples of a step, or the loss and
the accuracy of a prompt that is scored. Losses are clipped to [0, C], so that whatever the
worker's data, those of a release differ by at most C sqrt(I), and a loss over C beside an accuracy
by at most sqrt(2), in the Euclidean norm. The noise has s times that as its standard deviation,
which makes each release a Gaussian mechanism of noise multiplier s with respect to *any* change of
the worker's data, and those of a run a composition of as many (Dwork and Roth, 2014, A.1). How
many there are is the worker's own affair, too: it gives no more than its configuration needs.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.inputs.trust import Privacy
from asyndbt_mpi.protocol.blackbox import Answer
from asyndbt_mpi.protocol.estimation import rounds_asked
from asyndbt_mpi.protocol.messages import CostBounds, LowerReport, Report, ToServer
from asyndbt_mpi.protocol.race import plan


class AskedTooOften(Exception):
    """A worker was asked for more noisy answers than its guarantee is for."""


def most_answers(config: Config, bounds: CostBounds) -> int:
    """The most noisy answers that a worker with such ``bounds`` is asked for, and gives.

    A budget or an early end only makes them fewer; a worker that is lost and comes back could be
    asked again for what it did not get to tell.
    """
    run, algorithm = config.run, config.algorithm
    estimates = min(run.iterations, algorithm.plane_until) // algorithm.plane_period
    # A worker is asked when it is answered: not before iteration 0, nor after the last.
    validations = (run.iterations - 1) // run.evaluate_every if run.evaluate_every else 0
    raced = sum(prompts for prompts, _ in plan(run.races, bounds, config.llm.cache > 0))
    return run.iterations + rounds_asked(algorithm) * estimates + validations + raced


class Noise:
    """Clips losses, and adds noise to them, for so many answers and no more.

    It is drawn from the operating system's cryptographic source, and kept nowhere: whoever knew a
    seed or a state of a generator could take the noise off again.

    Parameters
    ----------
    privacy : with C as `clip` and s as `noise`
    most : by worker, `most_answers`
    """

    def __init__(self, privacy: Privacy, most: Mapping[int, int]) -> None:
        self.clip = privacy.clip
        self.multiplier = privacy.noise
        self.most = most
        self._asked: Counter[int] = Counter()

    def ask(self, worker: int) -> None:
        """Count what ``worker`` is asked for, which begins with this.

        Raises
        ------
        AskedTooOften
            It has been asked for as much as its guarantee is for.
        """
        if self._asked[worker] >= self.most[worker]:
            raise AskedTooOften(
                f"was asked for more than {self.most[worker]} noisy answers, which is all that its"
                " configuration needs and its guarantee is for"
            )
        self._asked[worker] += 1

    def heard(self, answer: Answer, is_evaluation: bool) -> Answer:
        """``answer`` as the worker may learn from it and tell of it."""
        return self._of_prompt(answer) if is_evaluation else self._of_samples(answer)

    def told(self, message: ToServer) -> ToServer:
        """``message`` with its mean loss within [0, C], which takes nothing from the guarantee."""
        if isinstance(message, Report | LowerReport):
            return replace(message, loss=min(max(message.loss, 0.0), self.clip))
        return message

    def _of_samples(self, answer: Answer) -> Answer:
        """With nothing beside the losses that is exact."""
        scale = self.multiplier * self.clip * math.sqrt(len(answer.losses))
        clipped = answer.losses.clip(0.0, self.clip)
        return replace(
            answer,
            losses=clipped + scale * normal(len(clipped)),
            accuracies=np.full_like(clipped, np.nan),
            row_losses=None,
            log_probabilities=None,
            labels=None,
            bias=None,
        )

    def _of_prompt(self, answer: Answer) -> Answer:
        """Without what loss and accuracy are means of; both are brought back into their ranges."""
        loss, accuracy = self.multiplier * math.sqrt(2.0) * normal(2)
        losses = answer.losses.clip(0.0, self.clip) + self.clip * loss
        losses = losses.clip(0.0, self.clip)
        scores = answer.log_probabilities
        return replace(
            answer,
            losses=losses,
            accuracies=(answer.accuracies + accuracy).clip(0.0, 1.0),
            row_losses=None if scores is None else np.full(scores.shape[:2], losses[0]),
            log_probabilities=None,
            labels=None,
            bias=None,
        )


def normal(count: int) -> FloatArray:
    """Standard normal numbers (``count``,), each by inversion of one with 53 random bits."""
    from scipy import special  # a tenth of a second for every command, and few have noise

    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    numbers: FloatArray = special.ndtri((bits + 0.5) / 2.0**53)  # never 0
    return numbers.clip(max=-special.ndtri(0.5 / 2.0**53))  # where one was rounded to 1
