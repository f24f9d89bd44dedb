"""Checks on files and names that others may have made, before they are used.

A file must be regular and of bounded size: reading a pipe may block, a device may never end.
"""

import errno
import os
import stat
from unicodedata import category

LONGEST_PATH = 4095
LONGEST_NAME = 255
"""Bytes that Linux allows for a path and for each of its parts."""

SHOWN = 200
"""Characters of an invalid value that an error shows."""


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of the regular file at ``path``, of at most ``most`` bytes.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger; ``strerror`` says which.
    """
    try:
        # Non-blocking: opening a pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
        # The size of a file in /proc is unknown until it is read.
        content = file.read(most + 1) if found.st_size <= most else None
    if content is None or len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {size(most)}")
    return content


def check_path(path: str, longest_name: int = LONGEST_NAME) -> None:
    """Refuse what cannot be a path on any machine, or would mean something else in a script.

    Raises
    ------
    ValueError
        What is wrong with it; the path is not quoted.
    """
    check_line(path)
    if path.startswith("-"):
        raise ValueError("a path must not begin with -, or it would be taken for an option: put"
                         " ./ before it")  # fmt: skip
    encoded = path.encode()
    if len(encoded) > LONGEST_PATH:
        raise ValueError(f"a path must not have more than {LONGEST_PATH} bytes")
    if max(map(len, encoded.split(b"/"))) > longest_name:
        raise ValueError(f"no part of this path may have more than {longest_name} bytes")


def check_line(text: str) -> None:
    """Refuse line breaks and other invisible characters, and what cannot be encoded as UTF-8.

    Raises
    ------
    ValueError
        The character; the text is not quoted.
    """
    check_encodable(text)
    for letter in text:
        if not is_visible(letter):
            kind = "control" if category(letter) == "Cc" else "invisible"
            raise ValueError(f"must not contain the {kind} character {letter!r}")


def check_encodable(text: str) -> None:
    """Refuse halves of surrogate pairs, which stand for bytes that were not UTF-8.

    Raises
    ------
    ValueError
        There is one; the text is not quoted.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8 text: it contains half of a surrogate pair") from error


def is_visible(letter: str) -> bool:
    """Whether ``letter`` is visible, or a space.

    False for what Unicode calls control, format (direction overrides among them), surrogate,
    private or unassigned, and for other separators.
    """
    return letter.isprintable() or category(letter) == "Zs"


def not_utf8(content: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with ``content``, at which byte, and how to convert it; no text is quoted."""
    others = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    likely = others.get(content[:2], "WINDOWS-1252")
    return (
        f"is not UTF-8 text at byte {error.start} (0x{content[error.start]:02x}); convert the file,"
        f" perhaps with: iconv -f {likely} -t UTF-8 OLD > NEW"
    )


def shown(value: object, most: int = SHOWN) -> str:
    """``value`` as an error shows it: on one line, shortened if long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write thousands of digits
        return "(too long to show)"
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def size(count: int) -> str:
    """``count`` bytes as text, such as 3.5 GiB."""
    amount, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.4g} {unit}"
