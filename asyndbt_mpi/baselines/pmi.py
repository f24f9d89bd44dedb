"""Words for prompts out of texts, by pointwise mutual information, as in BDPL."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import read_file, shown
from asyndbt_mpi.task.sources import shipped_texts

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

LONGEST = 3
"""Words of a phrase."""

MOST_BYTES = 2**26
"""Of a file of texts."""


def public_words(path: str, size: int) -> list[str]:
    """The `vocabulary` of the lines of a file, or of the texts that ship with the package.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or has too few phrases.
    """
    try:
        texts = _read(path).decode().splitlines() if path else shipped_texts()
        return vocabulary(texts, size)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--texts {shown(path)}: not UTF-8 text") from error
    except ValueError as error:
        raise ConfigurationError(
            f"--texts {shown(path)}: {error}; give more, or lower prompt.vocabulary_size"
        ) from error


def digest_of_texts(path: str) -> str:
    """That of a file; "" for the texts that ship with the package.

    Raises
    ------
    ConfigurationError
        The file cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest() if path else ""


def _read(path: str) -> bytes:
    try:
        return read_file(path, MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"--texts {shown(path)}: {error.strerror}") from error


def vocabulary(texts: Iterable[str], size: int, threshold: float = 0.0) -> list[str]:
    """The ``size`` most frequent phrases; of equally frequent ones the first in the alphabet.

    A text is cut between two neighbours a b wherever log p(a b) / (p(a) p(b)) is at most
    ``threshold``; what stays together, up to `LONGEST` words, is a phrase (Diao et al., TMLR 2023).

    Raises
    ------
    ValueError
        The texts have fewer phrases.
    """
    split = [[word.lower() for word in WORD.findall(text)] for text in texts]
    words = Counter(word for each in split for word in each)
    pairs = Counter(pair for each in split for pair in pairwise(each))
    phrases = Counter(
        phrase for each in split for phrase in _phrases(each, words, pairs, threshold)
    )
    if len(phrases) < size:
        raise ValueError(f"the texts have {len(phrases)} phrases, but {size} are needed")
    ranked = sorted(phrases, key=lambda phrase: (-phrases[phrase], phrase))
    return ranked[:size]


def information(
    pair: tuple[str, str], words: Counter[str], pairs: Counter[tuple[str, str]]
) -> float:
    """log p(a b) / (p(a) p(b)), by the shares among all words and all pairs of neighbours."""
    together = pairs[pair] / pairs.total()
    apart = words[pair[0]] * words[pair[1]] / words.total() ** 2
    return math.log(together / apart)


def _phrases(
    words_of_text: list[str],
    words: Counter[str],
    pairs: Counter[tuple[str, str]],
    threshold: float,
) -> Iterator[str]:
    phrase: list[str] = []
    for word in words_of_text:
        belongs = phrase and information((phrase[-1], word), words, pairs) > threshold
        if phrase and (not belongs or len(phrase) == LONGEST):
            yield " ".join(phrase)
            phrase = []
        phrase.append(word)
    if phrase:
        yield " ".join(phrase)
