"""Vocabularies: the public words of prompt fragments (D7).

A word of a fragment is one entry of a vocabulary, which may be a phrase.
"""

from importlib import resources
from importlib.resources.abc import Traversable

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import read_file, shown

MOST_BYTES = 2**26
"""Bytes of a word list, which is kept in the log."""

LONGEST_WORD = 100
"""Characters, also of a phrase."""


def shipped() -> list[str]:
    """Names of the vocabularies that the package ships."""
    return sorted(file.name.removesuffix(".txt") for file in _folder().iterdir())


def load_vocabulary(vocabulary: str | list[str], size: int) -> list[str]:
    """The first ``size`` words of a list, of a shipped vocabulary, or of a file.

    A file is UTF-8 with one word or phrase per line, best first.

    Raises
    ------
    ConfigurationError
        No such vocabulary, too few words, or a word that is empty, too long, repeated, or has
        other whitespace than single blanks between its parts.
    """
    if isinstance(vocabulary, str):
        words, source = _read(vocabulary), f"prompt.vocabulary = {shown(vocabulary)}, line"
    else:
        words, source = vocabulary, "prompt.vocabulary, entry"
    _check(words, source)
    if len(words) < size:
        raise ConfigurationError(
            f"prompt.vocabulary_size = {size}: the vocabulary has only {len(words)} words; "
            "lower the size or add words"
        )
    return words[:size]


def _folder() -> Traversable:
    return resources.files("asyndbt_mpi.task") / "vocabularies"


def _read(name: str) -> list[str]:
    try:
        if name in shipped():
            content = (_folder() / f"{name}.txt").read_bytes()
        else:
            content = read_file(name, MOST_BYTES)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"prompt.vocabulary = {shown(name)}: neither a file nor a shipped vocabulary; "
            f"shipped are {', '.join(shipped())}"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"prompt.vocabulary = {shown(name)}: cannot be read: {error.strerror}"
        ) from error
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"prompt.vocabulary = {shown(name)}, line {line}: not UTF-8 text"
        ) from error
    return text.removesuffix("\n").split("\n") if text else []


def _check(words: list[str], source: str) -> None:
    seen: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        where = f"{source} {number}"
        if not word:
            raise ConfigurationError(
                f"{where}: empty; every line or entry must be a word or a phrase"
            )
        # Unprintable characters (control characters, lone surrogates, spaces other than blanks)
        # belong neither in a prompt nor in the log.
        if not word.isprintable():
            raise ConfigurationError(
                f"{where}: {shown(word)} contains a tab, a line break or another invisible"
                " character; the parts of a phrase must be separated by blanks"
            )
        if word != " ".join(word.split()):
            raise ConfigurationError(
                f"{where}: {shown(word)} has a blank at an end, or several in a row; remove it:"
                " words of a phrase are separated by single blanks"
            )
        if len(word) > LONGEST_WORD:
            raise ConfigurationError(
                f"{where}: {shown(word)}: a word or phrase has at most {LONGEST_WORD} characters"
            )
        if word in seen:
            raise ConfigurationError(
                f"{where}: {word!r} is a repeat of number {seen[word]}; each word may occur once"
            )
        seen[word] = number
