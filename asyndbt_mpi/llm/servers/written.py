"""Which label a written answer names, if it says so in a form that has no second meaning.

See docs/answers.md for the forms and for examples.  An answer in any other form names none: words
that turn a sentence into its opposite cannot all be listed, so those that do not are.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.base import ENDING
from asyndbt_mpi.llm.servers.bounds import beginnings
from asyndbt_mpi.llm.servers.claims import (
    ALONE,
    DOUBT,
    EXPLAINS,
    FINAL,
    LEADS_TO,
    MARKED,
    NOUN,
    OPTION,
    PROPERTY,
    REASON,
    SOMEBODY,
    STARS,
    STATED,
    YES_NO,
)
from asyndbt_mpi.llm.servers.failures import Unusable
from asyndbt_mpi.llm.servers.responses import check_not_filtered
from asyndbt_mpi.llm.servers.thinking import behind_thoughts, check_not_thinking, text_of_parts

OTHER_LABELS = 0.05
"""Share of the labels that a written answer does not name.  An answer tells which label is the
most probable one and no more; a twentieth is a usual smoothing of a label (Szegedy et al. 2016
take a tenth), and keeps the loss of a wrong answer finite: 3 nats more than that of a right one,
for two labels."""

MOST_CHARACTERS = 4000
"""As much of an answer is read; a server that writes more does not keep to what it was asked."""

PAIRS = (
    *((f"<{tag}>", f"</{tag}>") for tag in ("answer", "label", "sentiment", "output")),
    *(('"', '"'), ("'", "'"), ("`", "`"), ("(", ")"), ("[", "]"), ("{", "}"), ("<", ">")),
    *(("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}"), (r"\text{", "}")),
    *(("「", "」"), ("『", "』"), ("【", "】")),
)
"""What may stand around a label."""

MOST_AROUND = 8
"""Of these, and of stops behind it, so many are taken away."""

EMPHASIS = re.compile(
    r"(?<![A-Za-z0-9*])(\*{1,3})(?=[^\s*])([^\n]{1,200}?)(?<=[^\s*])\1(?![A-Za-z0-9*])"
    r"|(?<!\w)(_{1,3})(?=[^\s_])([^\n]{1,200}?)(?<=[^\s_])\3(?!\w)"
)
"""Markdown's, which says nothing."""

FRACTION = re.compile(r"\d\.$")
"""What may be the beginning of one, where an answer was cut off."""

FENCE = re.compile(r"\s*```(?:json|text|txt|plaintext|xml|markdown)?\n(.*?)\n?```\s*", re.DOTALL)


def read_text(choice: Mapping[str, Any]) -> str:
    """As `read_whole`; of a continued prompt, one line."""
    text = read_whole(choice)
    if isinstance(choice.get("message"), Mapping):
        return text
    # Behind the label come further demonstrations, of the model's own making.
    return text.strip().partition(ENDING[0])[0]


def read_whole(choice: Mapping[str, Any]) -> str:
    """What the model wrote, without its thoughts.

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
        # Where a model has nothing to say, some servers say null.
        nothing = "content" in message and message["content"] is None
        text = "" if nothing else text_of_parts(message.get("content"))
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise Unusable("the answer has no text")
    return behind_thoughts(text)


def of_answer(text: str, labels: Sequence[str], cut: bool = False) -> NDArray[np.float64] | None:
    """Log-probabilities (U,) of the labels, of which a written answer names one; else None.

    ``cut`` says that the answer may go on: then what stands at its end may be a beginning.
    """
    named = label_of(text, labels, cut)
    return None if named is None else of_label(named, len(labels))


def of_label(named: int, count: int) -> NDArray[np.float64]:
    """Log-probabilities (U,) of ``count`` labels, of which an answer names one."""
    others = count - 1
    shares = np.full(count, OTHER_LABELS / others if others else 0.0)
    shares[named] = 1 - others * shares[0]
    logarithms: NDArray[np.float64] = np.log(shares)
    return logarithms


def label_of(text: str, labels: Sequence[str], cut: bool = False) -> int | None:
    """The number of the label that a written answer names; None if that is not clear.

    The answer is (a) nothing but the label, or (b) a record with it, or (c) has a sentence of a
    closed form ("The answer is B.") that is not taken back or put in doubt by the others.
    """
    text = text.strip()
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "..."  # so that no label is all of it, or at its end
    return _Answer(text, labels, cut).label()


def normal_form(text: str) -> str:
    """What is left of a label where spelling does not count; labels must differ in it.

    Case, width, emphasis, invisible signs; a space, hyphen or underscore within it is the same.
    """
    return re.sub(r"(?<=\w)[ _-](?=\w)", " ", plain(text).strip().casefold())


class _Answer:
    """A written answer in which a label is looked for."""

    def __init__(self, text: str, labels: Sequence[str], cut: bool) -> None:
        fenced = FENCE.fullmatch(text)
        self.text = plain(fenced[1] if fenced else text).strip()
        self.names = [normal_form(label) for label in labels]
        self.cut = cut

    def label(self) -> int | None:
        """The label, by the first form that the answer has."""
        whole = self._whole()
        if whole is not None:
            return None if self.cut and self._may_go_on(whole) else whole
        for found in (self._recorded(), self._option(), self._claimed()):
            if found is not None:
                return found
        return None

    def _is_label(self, text: str) -> int | None:
        """The label that a text is, perhaps with a stop, in quotes or in brackets."""
        for _ in range(MOST_AROUND):
            name = normal_form(text)
            if name in self.names:
                return self.names.index(name)
            text = _unwrapped(text.strip())
        return None

    def _whole(self) -> int | None:
        """The label that the answer is, and nothing else, or an item or heading of that."""
        found = self._is_label(self.text)
        if found is None:
            # Of numbers, these signs may be more: "- 1", "> 3", '5"'.
            bare = re.sub(r"^(?:[-•*>]|#{1,6})\s+", "", self.text)
            quoted = bare[:-1] if bare.endswith(('"', "'")) else bare
            found = next((n for n in map(self._is_label, (bare, quoted)) if n is not None), None)
            if found is not None and not is_word(self.names[found]):
                return found if self.names[found].isalpha() and quoted == bare else None
        return found

    def _may_go_on(self, label: int) -> bool:
        """Whether "good" may become "good enough", "4." a fraction, or "a" an article."""
        if FRACTION.search(self.text):
            return True
        if not normal_form(self.text).endswith(self.names[label]):
            return False
        return self.text in ("a", "i") or label in beginnings(self.names)

    def _recorded(self) -> int | None:
        """The label in a JSON object, with nothing that speaks against it."""
        text = self.text if '"' in self.text else self.text.replace("'", '"')
        try:
            pairs = json.loads(text, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return None
        if not isinstance(pairs, _Pairs):
            return None
        found = None
        for key, value in pairs:
            if re.fullmatch(f"(?:final[ _])?{NOUN}|{PROPERTY}", key, re.IGNORECASE):
                if found is not None or isinstance(value, bool) or not isinstance(value, str | int):
                    return None
                found = self._is_label(str(value))
                if found is None:
                    return None
        return None if found is None or self._record_doubts(pairs, found) else found

    def _record_doubts(self, pairs: "_Pairs", label: int) -> bool:
        """Whether other fields leave the label open: any that are no score and no reason."""
        for key, value in pairs:
            if re.fullmatch(f"(?:final[ _])?{NOUN}|{PROPERTY}", key, re.IGNORECASE):
                continue
            if key.casefold() in ("score", "confidence", "probability"):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    return True
                if not 0.5 <= value <= 1:
                    return True
            elif key.casefold() in ("reason", "reasoning", "explanation", "rationale"):
                if not isinstance(value, str) or self._speaks_against(value, label):
                    return True
            else:
                return True
        return False

    def _option(self) -> int | None:
        """The letter that an answer begins with, before the text that it stands for."""
        found = OPTION.fullmatch(self.text)
        if not found:
            return None
        label = self._is_label(found["label"].strip("().-–— "))
        rest = found["rest"]
        # "A. I." is no option, nor is what has several sentences, or begins with a number.
        if label is None or re.search(r"[.!;]\s", rest) or not re.match(r"[^\W\d_]{2}", rest):
            return None
        return None if self._speaks_against(rest, label) else label

    def _claimed(self) -> int | None:
        """The label of a sentence of a closed form, if the other sentences let it stand."""
        # A line that ends in a colon introduces the next one.
        text = re.sub(r":[^\S\n]*\n\s*", ": ", re.sub(r"(?m)^#{1,6} ", "", self.text))
        sentences = [s for s in re.split(r"(?<=[.!?;])\s+|(?<=。)\s*|\n+", text) if s.strip()]
        for place, sentence in enumerate(sentences):
            claim, *reason = REASON.split(sentence, maxsplit=1)
            stops = claim.endswith((".", "!", "。")) and not FRACTION.search(claim)
            ends = bool(reason) or place < len(sentences) - 1 or stops
            label = self._claim(claim.strip(), sentences[:place])
            if label is None or (self.cut and not ends):
                continue
            behind = reason + sentences[place + 1 :]
            if all(self._explains(other, label) for other in behind):
                return label
        return None

    def _claim(self, sentence: str, before: list[str]) -> int | None:
        """The label that a sentence claims, behind those ``before`` it."""
        if final := FINAL.fullmatch(sentence):
            return None if self._is_told(before) else self._of(final)
        if marked := MARKED.fullmatch(sentence):
            label = self._of(marked)
            return None if self._is_told(before) or self._is_denied(before, label) else label
        if before:
            return None
        if (bare := self._is_label(sentence)) is not None:
            return bare
        unstopped = _unwrapped(sentence) if sentence.endswith((".", "!", "。")) else sentence
        if answered := YES_NO.fullmatch(unstopped) or STARS.fullmatch(unstopped):
            return self._is_label(answered[answered.lastgroup or 0])
        if alone := ALONE.fullmatch(unstopped):
            return self._of(alone)
        stated = STATED.fullmatch(unstopped)
        label = self._of(stated) if stated else None
        if label is None or stated is None or is_word(self.names[label]):
            return label
        capital = self.names[label].isalpha() and len(self.names[label]) == 1
        return label if capital and stated[stated.lastgroup or 0].isupper() else None

    def _of(self, found: re.Match[str]) -> int | None:
        """The label in a form; behind a dash a number may be a negative one."""
        text = found[found.lastgroup or 0]
        label = self._is_label(text)
        dashed = re.search(r"[-–—]\s*$", found.string[: found.start(found.lastgroup or 0)])
        if label is not None and dashed and not re.search(r"[^\W\d_]", self.names[label]):
            return None
        return label

    def _is_denied(self, before: list[str], label: int | None) -> bool:
        """Whether sentences before a claim are no reasons, or claim an answer as well."""
        again = re.compile(rf"\b(?:{NOUN}|{PROPERTY})\b", re.IGNORECASE)
        if any(again.search(each) or not LEADS_TO.match(each) for each in before):
            return True
        return any(self._claim(each, []) not in (None, label) for each in before)

    def _is_told(self, before: list[str]) -> bool:
        """Whether the sentences before a claim make it an example or somebody else's, or ask."""
        return any(DOUBT.search(each) or SOMEBODY.search(each) for each in before)

    def _explains(self, sentence: str, label: int) -> bool:
        """Whether a sentence behind a claim is a reason for it."""
        if re.fullmatch(r"(?i)(?:explanation|reason|reasoning|rationale):", sentence.strip()):
            return True
        return bool(EXPLAINS.match(sentence)) and not self._speaks_against(sentence, label)

    def _speaks_against(self, text: str, label: int) -> bool:
        """Whether a reason has another label, or a doubt."""
        others = [name for name in self.names if name != self.names[label]]
        return bool(DOUBT.search(text)) or any(_holds(text, name) for name in others)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may be there twice."""


def _unwrapped(text: str) -> str:
    """Text without a final stop, or without one pair of what may surround a label."""
    if text.endswith(("!", "。")) or re.search(r"[^.]\.$", text):
        return text[:-1].rstrip()
    for opening, closing in PAIRS:
        inside = text[len(opening) : -len(closing)]
        if inside and text == f"{opening}{inside}{closing}":
            return inside.strip()
    return text


def plain(text: str) -> str:
    """Text with one kind of quotes and hyphens, without what is not seen or only adorns it."""
    # Compatibility would make 52 of a 5 that is squared.
    numbers = any(unicodedata.category(sign) == "No" for sign in text)
    text = unicodedata.normalize("NFC" if numbers else "NFKC", text)
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    text = re.sub(r"[‘’´]", "'", re.sub(r"[“”„«»]", '"', text))
    text = re.sub("[‐‑−]", "-", text)
    text = EMPHASIS.sub(lambda found: found[2] or found[4], text)
    return re.sub(r"[^\S\n]+", " ", text)


def is_word(name: str) -> bool:
    """Whether a label is no letter, number or small word, which a sentence may have by chance."""
    small = {"no", "not", "none", "it", "so", "in", "on", "out", "up", "me", "us", "the", "this"}
    return len(name) > 1 and name not in small and bool(re.search(r"[^\W\d_]", name))


def _holds(text: str, name: str) -> bool:
    """Whether a label is in a text as a word of its own; a letter as a capital, or as in "a)"."""
    first = r"(?<!\w)" if re.match(r"\w", name) else ""
    last = r"(?!\w)" if re.search(r"\w$", name) else ""
    if len(name) == 1 and name.isalpha() and name.upper() != name:
        return bool(re.search(rf"(?<!\w)(?:{name.upper()}(?!\w)|{name}\))", text))
    spelt = "[ _-]".join(map(re.escape, name.split(" ")))
    return bool(re.search(first + spelt + last, text.casefold()))
