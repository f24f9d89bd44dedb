"""The Gaussian mechanism: noise on a worker's losses, from which all that it tells then follows.

An answer of the black box is one release: the losses of the I samples of a step, or the loss and
the accuracy of a prompt that is scored. Losses are clipped to [0, C], so that whatever the
worker's data, those of a release differ by at most C sqrt(I), and a loss over C beside an accuracy
by at most sqrt(2), in the Euclidean norm. The noise has s times that as its standard deviation,
which makes each release a Gaussian mechanism of noise multiplier s with respect to *any* change of
the worker's data, and those of a run a composition of as many (Dwork and Roth, 2014, A.1).
"""

import math
import os
from dataclasses import replace

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.inputs.trust import Privacy
from asyndbt_mpi.protocol.blackbox import Answer
from asyndbt_mpi.protocol.messages import LowerReport, Report, ToServer


class Noise:
    """Clips losses, and adds noise to them.

    It is drawn from the operating system's cryptographic source, and kept nowhere: whoever knew a
    seed or a state of a generator could take the noise off again.

    Parameters
    ----------
    privacy : with C as `clip` and s as `noise`
    """

    def __init__(self, privacy: Privacy) -> None:
        self.clip = privacy.clip
        self.multiplier = privacy.noise

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
