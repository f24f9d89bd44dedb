"""Whether all workers hold the same language model, by the digests that they say hello with."""


class Models:
    """The model of a run: the one of the worker that was heard of first.

    Attributes
    ----------
    digest : of that model; "" while nobody has named one
    """

    def __init__(self, may_differ: bool) -> None:
        self.may_differ = may_differ
        self.digest = ""
        self._first = ""

    def note(self, worker: int, description: str, digest: str) -> None:
        """Take the model of ``worker`` for that of the run, if it is the first."""
        if digest and not self.digest:
            self.digest, self._first = digest, f"worker {worker} ({description})"

    def difference(self, worker: int, description: str, digest: str) -> str | None:
        """One line if ``worker`` holds another model than the run's; None also if unknown."""
        if self.may_differ or not digest or not self.digest or digest == self.digest:
            return None
        return (
            f"worker {worker} ({description}) holds a different language model from {self._first}:"
            f" their digests are {digest} and {self.digest}; give all workers the same llm.model,"
            " or set llm.model_may_differ = true"
        )
