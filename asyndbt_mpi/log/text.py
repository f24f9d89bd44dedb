"""Text of others, shown as text: ranks, servers and files may write what a terminal obeys."""

from asyndbt_mpi.inputs.files import is_visible

LINES = "\n\t"
"""Stay where lines are meant to be lines."""


def printable(text: object, lines: bool = False) -> str:
    r"""``text`` with everything escaped that could not be seen, as in "\x1b" or "\u202e".

    See `files.is_visible`. With ``lines``, new lines and tabs stay as they are.
    """
    found = str(text)
    if found.isprintable():
        return found
    kept = LINES if lines else ""
    return "".join(sign if is_visible(sign) or sign in kept else repr(sign)[1:-1] for sign in found)
