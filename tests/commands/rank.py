"""One of three ranks of `asyndbt run`, whose language model answers at once.

    mpiexec -n 3 python -m tests.commands.rank HOW run ...

HOW is "folder": the last rank runs in the folder ELSEWHERE; "late": the model comes onto the
machine only while it is loaded; "absent": the last one never takes part; "models:aa,bb": these are
the digests of the workers' models; "unsummed": the summary at the end cannot be made.
"""

import os
import signal
import sys
from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from asyndbt_mpi.cli import main
from asyndbt_mpi.commands import run as launch
from asyndbt_mpi.llm.base import NoModel, Prompt, Scores
from asyndbt_mpi.task import fit

RANK = MPI.COMM_WORLD.Get_rank()


class Even(NoModel):
    """Finds every label equally probable, and says on standard output that it was asked."""

    description = "even"

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        print("asked", flush=True)
        even = np.full((len(prompts), len(labels)), -np.log(len(labels)))
        return Scores(even, calls=len(prompts), prompt_tokens=len(prompts))

    def longest(self, text: str) -> int:
        return 1


if __name__ == "__main__":
    how, _, digests = sys.argv.pop(1).partition(":")
    if how == "absent" and RANK == 2:
        signal.pause()  # until the job ends
    if how == "folder" and RANK == 2:
        os.chdir(os.environ["ELSEWHERE"])
    if how == "late":
        context_length = fit.context_length
        fit.context_length = lambda model: None
        found, fit.tokenizer = fit.tokenizer, lambda model: None

    def fails(*_: object) -> None:
        raise KeyError("what there is not")

    if how == "unsummed":
        launch.print_summary = fails

    def loaded(*_: object) -> Even:
        if how == "late":
            fit.context_length, fit.tokenizer = context_length, found
        return Even(digests.split(",")[RANK - 1] if digests else "")

    launch.language_model = loaded
    sys.argv[0] = "asyndbt"
    main()
