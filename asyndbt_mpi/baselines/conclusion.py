"""Which label a chain of thought ends with.

An answer in one of the closed forms of docs/answers.md is read as there. In any other text, labels
are looked for as whole words. A mention counts unless it

- is in a question, behind "whether" or "if", or one of several labels in a row, such as "positive
  or negative", which names none;
- is denied, as in "not positive": this takes earlier mentions of the label back, too;
- is at the end of a text that was cut off, where the word might go on.

Of those that count, the first one behind "answer" in the last sentence that has one is the
conclusion; without such a sentence, the last mention of all. Letters, numbers and small words such
as "no" are found by chance: they count behind "answer is", or if they stand alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asyndbt_mpi.llm.servers.written import is_word, label_of, normal_form, plain

_FEW_WORDS = (
    r"(?:\s+(?!(?:but|and|so|because|since|while|which|however|then)\b)[\w'-]+){0,5}"
    r"\s*[\"'(\[*]*$"
)
OPEN = re.compile(rf"\b(?:whether|if|unless){_FEW_WORDS}", re.IGNORECASE)
DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|no|hardly|barely|cannot|without|than|instead of|far from"
    rf"|anything but|opposite of)\b|n't\b){_FEW_WORDS}",
    re.IGNORECASE,
)
"""Before a mention, with up to five words in between, and no other label."""

IN_A_ROW = re.compile(
    r"[\s\"'()\[\]*,]*(?:or|and|nor|/|\||vs\.?|versus)?[\s\"'()\[\]*]*"
    r"(?:(?:an?|the|option|label)\s+)?[\"'(\[*]*",
    re.IGNORECASE,
)
"""Between two labels that are only listed."""

STATED = re.compile(r"(?:\b(?:is|be|was|as|option|choice|label|class)|[:=>])\s*[\"'(\[*]*$", re.I)
"""Between "answer" and a label that could be there by chance."""


@dataclass(frozen=True, slots=True)
class _Mention:
    """Of a label in a sentence; ``before`` is what stands between the last mention and this."""

    label: int
    start: int
    end: int
    before: str


@dataclass(frozen=True, slots=True)
class _Sentence:
    """``whole``: it is all of a line. ``open_end``: the text was cut off behind it."""

    text: str
    whole: bool
    open_end: bool


def conclusion(text: str, labels: Sequence[str], cut: bool = False) -> int | None:
    """The number of the label that a ``text`` ends with, None if none; ``cut``: it may go on."""
    named = label_of(text, labels, cut)
    return _Reading(text, labels, cut).conclusion() if named is None else named


class _Reading:
    """A text in which a label is looked for."""

    def __init__(self, text: str, labels: Sequence[str], cut: bool) -> None:
        self.names = [normal_form(label) for label in labels]
        longest_first = sorted(enumerate(labels), key=lambda each: -len(each[1]))
        spelt = "|".join(f"(?P<label{number}>{_spelt(label)})" for number, label in longest_first)
        # No part of a word, of a number, or of two words with a hyphen.
        self.pattern = re.compile(
            rf"(?<![\w-])(?<!\d[.,])(?:{spelt})(?![\w%])(?!-\w)(?![.,]\d)", re.IGNORECASE
        )
        self.sentences = list(_sentences(plain(text), cut))

    def conclusion(self) -> int | None:
        """See above."""
        answers, last = list[int](), list[int]()
        claimed, withdrawn = set[int](), set[int]()
        for sentence in reversed(self.sentences):
            found = list[_Mention]()
            for mention in reversed(self._mentions(sentence)):
                if not DENIED.search(mention.before):
                    if mention.label not in withdrawn:
                        claimed.add(mention.label)
                        found.append(mention)
                elif mention.label not in claimed:  # later, that is
                    withdrawn.add(mention.label)
            answers += [each.label for each in found if self._answers(sentence, each)][-1:]
            last += [each.label for each in found if self._stands(sentence, each)]
        return next(iter(answers + last), None)

    def _mentions(self, sentence: _Sentence) -> list[_Mention]:
        """Those that may count, in order."""
        text = sentence.text
        if text.rstrip("\"')]* ").endswith("?"):
            return []
        found = list[_Mention]()
        for each in self.pattern.finditer(text):
            if len(each[0]) > 1 or not each[0].islower():  # the letter, but not the article
                before = text[found[-1].end if found else 0 : each.start()]
                label = int((each.lastgroup or "").removeprefix("label"))
                found.append(_Mention(label, *each.span(), before))
        listed = {
            place
            for one, other in pairwise(found)
            if one.label != other.label and IN_A_ROW.fullmatch(other.before)
            for place in (one.start, other.start)
        }
        return [
            each
            for each in found
            if each.start not in listed
            and not (sentence.open_end and each.end == len(text))
            and not OPEN.search(each.before)
        ]

    def _answers(self, sentence: _Sentence, mention: _Mention) -> bool:
        """Whether it is behind the word "answer"."""
        _, answer, between = sentence.text[: mention.start].casefold().rpartition("answer")
        if not answer:
            return False
        return is_word(self.names[mention.label]) or bool(STATED.search(between))

    def _stands(self, sentence: _Sentence, mention: _Mention) -> bool:
        """Whether it is a word, or alone: as a line or, of letters, as a sentence or before ","."""
        name = self.names[mention.label]
        if is_word(name):
            return True
        if re.search(r"\w", sentence.text[: mention.start]):
            return False
        if not re.search(r"\w", sentence.text[mention.end :]):
            return sentence.whole or (len(name) > 1 and name.isalpha())
        return len(name) > 1 and name.isalpha() and sentence.text[mention.end] == ","


def _spelt(label: str) -> str:
    """A pattern for a label; a space, hyphen or underscore within it is the same."""
    words = re.split(r"(?<=\w)[ _-](?=\w)", plain(label).strip())
    return "[ _-]".join(map(re.escape, words))


def _sentences(text: str, cut: bool) -> Iterator[_Sentence]:
    # A line that ends in a colon introduces the next one.
    lines = re.sub(r":[^\S\n]*\n\s*", ": ", text.strip()).split("\n")
    for number, line in enumerate(lines, start=1):
        parts = [part for part in re.split(r"(?<=[.!?;])\s+", line.strip()) if part]
        for place, part in enumerate(parts, start=1):
            at_end = number == len(lines) and place == len(parts)
            yield _Sentence(part, len(parts) == 1, cut and at_end)
