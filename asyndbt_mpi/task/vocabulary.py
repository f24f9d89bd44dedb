"""Vocabularies: the public words that a prompt fragment is made of (D7)."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from asyndbt_mpi.config import ConfigurationError


def shipped() -> list[str]:
    """Names of the vocabularies that the package ships."""
    return sorted(file.name.removesuffix(".txt") for file in _folder().iterdir())


def load_vocabulary(vocabulary: str | list[str], size: int) -> list[str]:
    """The first ``size`` words of a list, of a shipped vocabulary, or of a file.

    A file is UTF-8 with one word a line, best first.

    Raises
    ------
    ConfigurationError
        No such vocabulary, too few words, or a word that is empty, repeated or has white space.
    """
    if isinstance(vocabulary, str):
        words, source = _read(vocabulary), f"prompt.vocabulary = {vocabulary!r}, line"
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
    file = _folder() / f"{name}.txt" if name in shipped() else Path(name)
    try:
        content = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"prompt.vocabulary = {name!r}: neither a file nor a shipped vocabulary; "
            f"shipped are {', '.join(shipped())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"prompt.vocabulary = {name!r}: cannot be read as UTF-8 text: {error}"
        ) from error
    return content.removesuffix("\n").split("\n") if content else []


def _check(words: list[str], source: str) -> None:
    seen: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        where = f"{source} {number}"
        if not word:
            raise ConfigurationError(f"{where}: empty; every line or entry must hold one word")
        # The rest of what is not printable (control characters, lone surrogates) has no place
        # in a prompt or in the log either.
        if any(letter.isspace() or not letter.isprintable() for letter in word):
            raise ConfigurationError(
                f"{where}: {word!r} holds white space or a control character; one word is due"
            )
        if word in seen:
            raise ConfigurationError(
                f"{where}: {word!r} was there before, as number {seen[word]}; each word only once"
            )
        seen[word] = number
