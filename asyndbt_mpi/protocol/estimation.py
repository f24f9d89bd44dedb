"""The server's side of one estimate of phi: K rounds of worker step (8), server step (9), (10)."""

import numpy as np

from asyndbt_mpi.algorithm.lower_level import LowerLevel
from asyndbt_mpi.algorithm.simplex import onto_simplex
from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.inputs.sections import Algorithm
from asyndbt_mpi.protocol.divergence import Step
from asyndbt_mpi.protocol.messages import LowerAssignment, LowerReport, MalformedMessage

GRADIENTS = Step(
    "the dual gradient of phi", "algorithm.penalty, algorithm.robust_weight or steps.rho"
)
SERVER_STEP = Step("phi", "steps.lower_z, steps.rho, algorithm.penalty or algorithm.robust_weight")


def rounds_asked(algorithm: Algorithm) -> int:
    """Rounds of an estimate of phi in which the black box is asked; none where models are."""
    return 0 if algorithm.pools else algorithm.lower_steps


def not_asked_for(worker: int, report: LowerReport) -> MalformedMessage:
    """The error that ``report`` answers nothing."""
    return MalformedMessage(
        f"lower-level report {report.number} of worker {worker} was not asked for"
    )


class LowerEstimation:
    """Rounds of the lower level among ``participants``; the others keep their last p (D4).

    Parameters
    ----------
    number : int
        Number of the estimation; keys its demonstrations.
    lower : LowerLevel
        Its scratch copy, at round 0.
    classes : int
        U, the length of each realisation k.
    """

    def __init__(
        self, number: int, lower: LowerLevel, participants: list[int], rounds: int, classes: int
    ) -> None:
        self.number = number
        self.lower = lower
        self._start = lower.p.copy()
        self.participants = participants
        self.rounds = rounds
        self.round = 0
        self.k: IntArray = np.full((len(lower.p), classes), -1, dtype=np.int64)
        self.awaited = set(participants)
        self.calls = 0
        self.prompt_tokens = 0

    @property
    def assignment_number(self) -> int:
        """Number of this round's assignments, unique over the run."""
        return self.number * self.rounds + self.round

    @property
    def finished(self) -> bool:
        """All K rounds are done."""
        return self.round == self.rounds

    def solve(self, gradients: FloatArray) -> None:
        """Do all rounds at the ``gradients`` (R, M, N) of the workers' models, without a message.

        Raises
        ------
        Diverged
            phi would not be finite.
        """
        self.participants, self.awaited = [], set()
        with SERVER_STEP:
            self.lower.solve(gradients, self.rounds, self.assignment_number)
        self.round = self.rounds

    def assignments(self) -> list[tuple[int, LowerAssignment]]:
        """What each participant is to do in this round.

        Raises
        ------
        Diverged
            The forces would not be finite.
        """
        indices = self._indices()
        with GRADIENTS:
            dual_gradients = self.lower.dual_gradients(indices)
        each = zip(self.participants, self.lower.p[indices], dual_gradients, strict=True)
        return [
            (worker, LowerAssignment(self.assignment_number, self.number, p, dual_gradient))
            for worker, p, dual_gradient in each
        ]

    def accept(self, worker: int, report: LowerReport) -> None:
        """Take a participant's p after its step (8), wherever that lies (D6).

        Raises
        ------
        MalformedMessage
            It was not asked for.
        """
        answered, asked = (report.number, report.estimation), (self.assignment_number, self.number)
        if worker not in self.awaited or answered != asked:
            raise not_asked_for(worker, report)
        self.calls += report.costs.calls
        self.prompt_tokens += report.costs.prompt_tokens
        self.awaited.discard(worker)
        self.lower.p[worker - 1] = report.p
        if report.k.size:  # else it stays with the worker
            self.k[worker - 1] = report.k

    def exclude(self, worker: int) -> None:
        """Go on without ``worker``: its p is back where it started, and so adds nothing to h."""
        self.awaited.discard(worker)
        self.participants = [other for other in self.participants if other != worker]
        self.lower.live[worker - 1] = False
        self.lower.p[worker - 1] = self._start[worker - 1]

    def advance(self) -> bool:
        """Do the server's step if every participant has reported; True if a round ended.

        Raises
        ------
        Diverged
            phi would not be finite.
        """
        if self.awaited:
            return False
        indices = self._indices()
        self.lower.p[indices] = onto_simplex(self.lower.p[indices])
        with SERVER_STEP:
            self.lower.server_step(self.assignment_number)  # (9), (10)
        self.round += 1
        self.awaited = set(self.participants)
        return True

    def _indices(self) -> IntArray:
        return np.array(self.participants, dtype=np.int64) - 1
