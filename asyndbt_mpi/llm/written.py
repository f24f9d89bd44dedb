"""Which label a written answer names, if it is clear; see docs/answers.md for examples.

An answer is never guessed at: where it may be read in two ways it names none.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.answers import check_not_filtered
from asyndbt_mpi.llm.base import ENDING
from asyndbt_mpi.llm.bounds import beginnings
from asyndbt_mpi.llm.client import Unusable
from asyndbt_mpi.llm.thinking import behind_thoughts, check_not_thinking

OTHER_LABELS = 0.05
"""Share of the labels that a written answer does not name.  An answer tells which label is the
most probable one and no more; a twentieth is a usual smoothing of a label (Szegedy et al. 2016
take a tenth), and keeps the loss of a wrong answer finite: 3 nats more than that of a right one,
for two labels."""

SMALL_WORDS = {
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "do", "en", "es", "for", "go", "he"),
    *("i", "if", "in", "is", "it", "la", "le", "me", "my", "no", "none", "not", "of", "on", "or"),
    *("out", "so", "the", "this", "to", "too", "up", "us", "was", "we", "yes", "you"),
}
"""Words that are in any sentence, whatever it says."""

AGAINST = re.compile(
    r"\b(?:no|not|non|nor|neither|none|never|nothing|cannot|without|hardly|barely|scarcely|unlikely"
    r"|unclear|unsure|unable|impossible|opposite|contrary|lacks?|lacking|false|untrue|wrong"
    r"|incorrect|except|excluding|unlike|than|instead|whether|if|either|unless|doubtful|anything"
    r"|far from|rules? out|ruled out|fails? to|less|(?:is|are|was|were|do|does|did|ca|wo|would)nt"
    r"|nicht|kein\w*|weder|pas|jamais|niet|geen|nao|não|nem|ikke|inte|sin|sans|ohne|не|нет|ни)\b"
    r"|n't\b|≠|¬|!=|[!~](?=[\w(]|$)|[不非没無未]"
)
"""What may turn a sentence into its opposite, or leave it open."""

BEFORE = r"""[\s"'`*_()\[\]{}<>#|.,;:=–—。、「」『』-]*"""
BEHIND = r"""[\s"'`*_()\[\]{}<>#|.,;:=!\\–—。、「」『』-]*"""
"""What may stand around a label that is the whole answer."""

OPENING = r"""[\s"'`*_(\[{<#]*"""
CLOSING = r"""["'`*_)\]}>]*"""
"""What may stand around a label in a sentence."""

_NOUN = (
    r"(?:answer|label|verdict|conclusion|prediction|classification|option|choice|class|category)"
)
_IS = rf"{CLOSING}\s*(?:(?:is|was|would be|should be|must be)\b\s*)?(?:[:=–—-]+>?\s*)?"

FINAL_MARK = rf"\bfinal {_NOUN}\b{_IS}"
MARK = (
    r"\b(?:answer|label|verdict|conclusion|prediction|classification|boxed"
    rf"|(?:correct|right|best|my) {_NOUN})\b{_IS}"
)
"""What marks the label behind it as the answer."""

SLIGHT_MARK = (
    rf"(?:[:=]|[-–—]+>|\s[-–—]|\b(?:{_NOUN}|choose|pick|select|chose|picked|selected|say|vote for"
    r"|go with|classified as|labell?ed as|rated|rate it|give it|it's|is)\b)\s*"
)
"""What tells a letter or a number that is an answer from one that is part of a sentence."""

STOPS = r"(?=\s*(?:$|[.,;:!(<)\]}\n]|[-–—]\s|because\b|since\b))"
"""What may follow a label that is marked."""

LETTER_STOPS = r"(?=\s*(?:$|[.;:!)\]}\n]|[-–—]\s))"
WORD_STOPS = r"(?=\s*(?:$|[.,;:!)\]}\n]|[-–—]\s))"
NUMBER_STOPS = r"(?=\s*(?:$|\.\s*$|\.?\n|[;:!\]}]|[-–—]\s|stars?\b|points?\b))"
"""What may follow such a label at the start; "1. ..." may begin a list."""


def read_text(choice: Mapping[str, Any]) -> str:
    """What the model wrote, without its thoughts; of a continued prompt, one line.

    Raises
    ------
    Filtered
        The model, or a filter, refused.
    Thinks
        It has not come to an answer.
    Unusable
        There is no text.
    """
    check_not_filtered(choice)
    check_not_thinking(choice)
    message = choice.get("message")
    if isinstance(message, Mapping):
        text = message.get("content")
        # Where a model has nothing to say, some servers say null.
        text = "" if text is None and "content" in message else text
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise Unusable("the answer has no text")
    text = behind_thoughts(text)
    if isinstance(message, Mapping):
        return text
    # Behind the label come further demonstrations, of the model's own making.
    return text.strip().partition(ENDING[0])[0]


def of_answer(text: str, labels: Sequence[str], cut: bool = False) -> NDArray[np.float64] | None:
    """Log-probabilities (U,) of the labels, of which a written answer names one; else None.

    ``cut`` says that the answer may go on: then a label at its end may be the beginning of
    another one.
    """
    named = label_of(text, labels, cut)
    if named is None:
        return None
    others = len(labels) - 1
    shares = np.full(len(labels), OTHER_LABELS / others if others else 0.0)
    shares[named] = 1 - others * shares[0]
    logarithms: NDArray[np.float64] = np.log(shares)
    return logarithms


def label_of(text: str, labels: Sequence[str], cut: bool = False) -> int | None:
    """The number of the label that a written answer names; None if that is not clear.

    By the first of these that the answer allows:

    1. it is nothing but a label, perhaps in quotes, brackets or the like;
    2. labels are marked as the final answer, or else as the answer ("The answer is B."), and they
       are all the same;
    3. one label is named, as a word of its own, in sentences that neither negate nor ask.  Of a
       letter, a number or a word like "no" only at the start or behind a mark.
    """
    answer = _Answer(text, labels, cut)
    for found in (answer.whole(), answer.behind(FINAL_MARK), answer.behind(MARK), answer.named()):
        if found:
            return found.pop() if len(found) == 1 else None
    return None


@dataclass(frozen=True, slots=True)
class _Mention:
    """A label in an answer, as a word of its own."""

    label: int
    start: int
    end: int


class _Answer:
    """A written answer, in which labels are looked for; each way returns those that it finds."""

    def __init__(self, text: str, labels: Sequence[str], cut: bool) -> None:
        self.spelt = _plain(text)
        self.text = self.spelt.casefold()
        if len(self.text) != len(self.spelt):  # a letter whose small form is two
            self.spelt = self.text
        self.names = [_plain(label).strip().casefold() for label in labels]
        self.mentions = self._mentions()
        self.unfinished = {each for each in self.mentions if cut and self._may_go_on(each)}

    def _mentions(self) -> list[_Mention]:
        """Labels in the order of the text; of those that overlap, the longest."""
        taken: list[_Mention] = []
        for number in sorted(range(len(self.names)), key=lambda n: -len(self.names[n])):
            for found in re.finditer(_pattern(self.names[number]), self.text):
                if not any(found.start() < m.end and m.start < found.end() for m in taken):
                    taken.append(_Mention(number, found.start(), found.end()))
        return sorted(taken, key=lambda mention: mention.start)

    def _may_go_on(self, mention: _Mention) -> bool:
        """Whether "good" may become "good enough", or "a" the article of a word."""
        if mention.end < len(self.text.rstrip()):
            return False
        article = self.spelt[mention.start : mention.end] in ("a", "i")
        return article or mention.label in beginnings(self.names)

    def whole(self) -> set[int]:
        """The label that the answer is, and nothing else."""
        if len(self.mentions) != 1 or self.unfinished:
            return set()
        [only] = self.mentions
        before, behind = self.text[: only.start], self.text[only.end :]
        around = re.fullmatch(BEFORE, before) and re.fullmatch(BEHIND, behind)
        return {only.label} if around else set()

    def behind(self, mark: str) -> set[int]:
        """Labels that stand behind a ``mark``, in sentences that do not negate it."""
        found = set()
        for each in self.mentions:
            before = re.search(f"(?:{mark}){OPENING}$", self.text[: each.start])
            if before and each not in self.unfinished and self._stops(each):
                start, _ = self._sentence(each)
                if not self._against(self.text[start : before.start()]):
                    found.add(each.label)
        return found

    def _stops(self, mention: _Mention) -> bool:
        """Whether an answer may end behind the mention, and no other label stands beside it."""
        if not re.match(CLOSING + STOPS, self.text[mention.end :]):
            return False
        _, end = self._sentence(mention)
        beside = (m for m in self.mentions if mention.end <= m.start < end and self._counts(m))
        return all(other.label == mention.label for other in beside)

    def named(self) -> set[int]:
        """The labels that are named; all of them where that is doubtful."""
        counted = [each for each in self.mentions if self._counts(each)]
        answering = [each for each in counted if self._answers(each)]
        if not answering:
            return set()
        doubtful = any(self._is_doubtful(each) for each in counted) or self.unfinished
        return set(range(len(self.names))) if doubtful else {each.label for each in counted}

    def _counts(self, mention: _Mention) -> bool:
        """Whether a mention is one: that of a letter is as a capital, or as in "a)"."""
        name, spelt = self.names[mention.label], self.spelt[mention.start : mention.end]
        letter = len(name) == 1 and name.isalpha()
        return not letter or not spelt.islower() or self.text[mention.end :].startswith(")")

    def _answers(self, mention: _Mention) -> bool:
        """Whether a mention that counts is where an answer stands."""
        name = self.names[mention.label]
        if not _is_slight(name):
            return True
        before, behind = self.text[: mention.start], self.text[mention.end :]
        stops = WORD_STOPS if name.isalpha() else NUMBER_STOPS
        if len(name) == 1 and name.isalpha():
            stops = LETTER_STOPS
        if re.fullmatch(OPENING, before) and re.match(CLOSING + stops, behind):
            return True
        if before.endswith("(") and behind.startswith(")"):
            return True
        if re.match(CLOSING + r" is (?:the )?(?:correct|right|best|answer)\b", behind):
            return True
        marked = re.search(f"(?:{SLIGHT_MARK}){OPENING}$", before)
        return bool(marked and re.match(CLOSING + STOPS, behind))

    def _is_doubtful(self, mention: _Mention) -> bool:
        """Whether the sentence may say the opposite, or asks."""
        start, end = self._sentence(mention)
        clause = re.split(r",|\s[-–—]+\s", self.text[mention.end : end])[0]
        asks = self.text[end : end + 1] == "?"
        # "positive: 0.1"
        measured = re.match(r"""["']?\s*[:=]\s*\d""", self.text[mention.end :])
        return (
            asks
            or bool(measured)
            or any(map(self._against, (self.text[start : mention.start], clause)))
        )

    def _sentence(self, mention: _Mention) -> tuple[int, int]:
        """Where the sentence of a mention begins and ends."""
        ends = [found.start() for found in re.finditer(r"[.!?;](?=\s|$)|[\n。]", self.text)]
        start = max((end + 1 for end in ends if end < mention.start), default=0)
        return start, min((end for end in ends if end >= mention.end), default=len(self.text))

    def _against(self, text: str) -> bool:
        """Whether something may turn a sentence, besides labels that are such words."""
        return any(found[0] not in self.names for found in AGAINST.finditer(text))


def _plain(text: str) -> str:
    """Text with one kind of quotes, without signs that are not seen or only change its look."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[‘’´]", "'", re.sub(r"[“”„«»]", '"', text)).replace("\u200b", "")
    return re.sub(r"(?<!\w)_+(?=\w)|(?<=[^\W_])_+(?!\w)", " ", text)


def _is_slight(name: str) -> bool:
    """Whether a label says nothing where it merely occurs: letters, numbers, small words."""
    return len(name) == 1 or name in SMALL_WORDS or not re.search(r"[^\W\d_]", name)


def _pattern(name: str) -> str:
    """A label as a word of its own; spaces, hyphens and underscores within it are all the same."""
    if re.fullmatch(r"[\d.,%+-]*\d[\d.,%+-]*", name):
        return rf"(?<![\w$€£%.,/+−-]){re.escape(name)}(?![\w%$€£]|[.,:/]\d|/)"
    parts = [re.escape(part) for part in re.split(r"[\s_-]+", name)]
    pattern = r"[\s_-]+".join(parts) if all(parts) else re.escape(name)
    first, last = re.escape(name[0]), re.escape(name[-1])
    before = r"(?<!\w)(?<!\w[-'&/])" if re.match(r"\w", name) else rf"(?<!{first})"
    behind = r"(?!\w)(?![-'&/]\w)" if re.search(r"\w$", name) else rf"(?![\w{last}])"
    return before + pattern + behind
