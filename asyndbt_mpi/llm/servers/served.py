"""Which model is behind a server's address, by what the server says of it."""

import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers import words

STABLE = ("id", "root", "parent", "digest", "hf_repo", "quantization")
"""Of an entry in a server's list: what is the same after a restart with the same model."""

STABLE_META = ("vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "size", "ftype")
"""Of llama.cpp's entry: what the model's file says.  ``n_ctx`` is the server's own choice."""

MODEL, FINGERPRINT = "model", "system_fingerprint"
"""In answers: the model, by its name, and what it runs on."""


class Served:
    """What the model behind ``server`` is known by, from its list of models and from its answers.

    A name that stands for another one, as for that of a dated version, does so from the first
    answer on; what counts is that it does not change.
    """

    def __init__(self, server: str, key: str = "") -> None:
        self._server = server
        self._key = key
        self._lock = threading.Lock()
        self._answers: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._listed: dict[str, Any] = {}
        self._told = False

    @property
    def identity(self) -> dict[str, Any]:
        """All that is known, by name."""
        return {**self._answers, **({"listed": self._listed} if self._listed else {})}

    @property
    def tells_more(self) -> bool:
        """Whether the list of models tells more than a name, so that it is worth another look."""
        return len(self._listed) > 1

    def digest(self, model: str) -> str:
        """Hex digest of the identity, and of the ``model`` that is asked for.

        Not of what the model runs on: some services have it change from answer to answer, and so
        from rank to rank.
        """
        told = {name: value for name, value in self.identity.items() if name != FINGERPRINT}
        known = json.dumps([model, told], sort_keys=True, default=str)
        return blake2b(known.encode(), digest_size=16).hexdigest()

    def note(self, answer: Mapping[str, Any], text: str) -> None:
        """Take in what an ``answer`` says; what it runs on may change, with one warning.

        Neither quotes the prompt ``text``, nor the key, whatever the answer does.

        Raises
        ------
        ModelError
            An earlier one was of another model.
        """
        for name in (MODEL, FINGERPRINT):
            value = answer.get(name)
            if not (isinstance(value, str) and value):
                continue
            if self._answers.get(name) == value:
                continue
            now = words.without(value, text, self._key)
            with self._lock:
                differs = self._answers.setdefault(name, value) != value
                before = self._shown.setdefault(name, now)
                first = differs and not self._told
                self._told |= differs
            if differs and name == MODEL:
                self._refuse(f"{name} {before!r}", f"{now!r}")
            if first:
                # Some services have it change from answer to answer: no reason to end a run.
                warnings.warn(
                    f"{self._server}: the model runs on something different now, by its"
                    f" {name}: {before!r} at first, {now!r} now; its answers may differ slightly",
                    stacklevel=2,
                )

    def list(self, entries: Sequence[Mapping[str, Any]] | None, model: str) -> None:
        """Take in what the server's list of models says of ``model``, if it says anything.

        Raises
        ------
        ModelError
            It said otherwise before, or does not list the model any more.
        """
        named = [each for each in entries or () if is_called(each, model)]
        if not named and entries is not None and len(entries) == 1:
            named = [entries[0]]  # the only one, which such servers take whatever it is called
        if not named:
            if self._listed and entries is not None:
                self._refuse(f"{self._listed.get('id', model)!r} in its list of models", "none")
            return
        listed = _stable(named[0])
        if self._listed and listed != self._listed:
            self._refuse(
                *(words.without(each, "", self._key) for each in _differing(self._listed, listed))
            )
        self._listed = listed

    def _refuse(self, before: str, now: str) -> None:
        raise ModelError(
            f"{self._server}: a different model has replaced the one that answered so far:"
            f" {before} before, {now} now; their scores cannot be compared. Resume with the first"
            " one, or start a new run"
        )


def is_called(entry: Mapping[str, Any], model: str) -> bool:
    """Whether an ``entry`` of a server's list is that of ``model``, by its name or another one."""
    aliases = entry.get("aliases")
    return entry.get("id") == model or (isinstance(aliases, list) and model in aliases)


def _stable(entry: Mapping[str, Any]) -> dict[str, Any]:
    meta = entry.get("meta")
    known = {name: entry[name] for name in STABLE if entry.get(name) not in (None, "")}
    if isinstance(meta, Mapping):
        known |= {f"meta.{name}": meta[name] for name in STABLE_META if name in meta}
    return known


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    old, new = (
        ", ".join(f"{name} {each.get(name)!r}" for name in names[:3]) for each in (before, now)
    )
    return old, new
