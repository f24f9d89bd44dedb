"""Files and names that somebody else may have made: checked before they are used.

A file is a regular one, of a bounded size: a pipe would be waited for, a device read for ever.
"""

import errno
import os
import stat
from unicodedata import category

LONGEST_PATH = 4095
LONGEST_NAME = 255
"""Bytes that Linux allows to a path and to each of its parts."""

SHOWN = 200
"""Characters of a wrong value that an error shows."""


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of the regular file at ``path``, of ``most`` bytes at the most.

    Raises
    ------
    OSError
        It cannot be read, is something else, or is larger; ``strerror`` says which.
    """
    try:
        # Without waiting: to open a pipe takes until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
        # Of files in /proc the size is not known before they are read.
        content = file.read(most + 1) if found.st_size <= most else None
    if content is None or len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {size(most)}")
    return content


def check_path(path: str, longest_name: int = LONGEST_NAME) -> None:
    """Refuse what is no path of a file on any machine, or would be something else in a script.

    Raises
    ------
    ValueError
        What is wrong with it; the path is not quoted.
    """
    check_line(path)
    if path.startswith("-"):
        raise ValueError("a path must not begin with -, for it would be taken for an option: put"
                         " ./ before it")  # fmt: skip
    encoded = path.encode()
    if len(encoded) > LONGEST_PATH:
        raise ValueError(f"a path must not have more than {LONGEST_PATH} bytes")
    if max(map(len, encoded.split(b"/"))) > longest_name:
        raise ValueError(f"no part of this path may have more than {longest_name} bytes")


def check_line(text: str) -> None:
    """Refuse line breaks and all else that cannot be seen, and what cannot be written as UTF-8.

    Raises
    ------
    ValueError
        Which of them; the text is not quoted.
    """
    check_encodable(text)
    for letter in text:
        if not is_visible(letter):
            kind = "control" if category(letter) == "Cc" else "invisible"
            raise ValueError(f"must not hold the {kind} character {letter!r}")


def check_encodable(text: str) -> None:
    """Refuse halves of surrogate pairs, which stand for bytes that were no UTF-8.

    Raises
    ------
    ValueError
        There is one; the text is not quoted.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8 text: it holds half of a surrogate pair") from error


def is_visible(letter: str) -> bool:
    """Whether ``letter`` can be seen, or is a space.

    Not what Unicode calls control, format (overrides of the direction among them), surrogate,
    private or unassigned, nor other separators.
    """
    return letter.isprintable() or category(letter) == "Zs"


def shown(value: object, most: int = SHOWN) -> str:
    """``value`` as an error shows it: on one line, and cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write thousands of digits
        return "(too long to be shown)"
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def size(count: int) -> str:
    """``count`` bytes in words, such as 3.5 GiB."""
    amount, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.4g} {unit}"
