"""Why a request to a server failed."""

from asyndbt_mpi.llm.base import ModelError


class Refused(ModelError):
    """The server does not take a request as it is (status 400 or 422).

    ``content`` is the body of its answer, which may quote anything.
    """

    def __init__(self, message: str, content: bytes) -> None:
        super().__init__(message)
        self.content = content


class Forbidden(ModelError):
    """The server does not show this to us (status 401 or 403)."""


class Unusable(Exception):
    """An answer that cannot be used; the request is worth another attempt."""


class Unlisted(Unusable):
    """An answer without log-probabilities, as of a server that has none."""


class Filtered(Exception):
    """The server does not answer because of what the prompt says; asking again would not help."""


class Unscorable(ModelError):
    """By the answers so far, a label cannot be scored: worth another try, for one may be rotten."""


class Again(Exception):
    """An attempt failed in a way that may pass, ``told`` seconds from now or later."""

    def __init__(self, reason: str, told: float = 0.0) -> None:
        super().__init__(reason)
        self.told = told
