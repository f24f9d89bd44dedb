"""A language model behind a server that speaks OpenAI's API: DashScope, vLLM, llama.cpp, ..."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from asyndbt_mpi.llm.answers import (
    Alternatives,
    FirstTokens,
    of_answer,
    read_alternatives,
    read_text,
    walk,
)
from asyndbt_mpi.llm.base import ModelError, Prompt, Scores
from asyndbt_mpi.llm.bounds import ROUNDS, SPARE, answer_tokens, longest, most_calls
from asyndbt_mpi.llm.client import Account, Client, Endpoint, Filtered, Refused, Unusable
from asyndbt_mpi.llm.pace import Pace

T = TypeVar("T")

GRANTED = (20, 5)
"""Alternatives to ask for: as many as OpenAI's chat API and vLLM list, or else older servers."""

TRIAL = "1 + 1 ="


class OpenAIModel:
    """Scores labels by requests to a server that speaks OpenAI's API.

    Where the server lists the likeliest next tokens, a label's probability is that of its whole
    text: token by token with the completion API, and by the first token, which must be the whole
    label, with the chat API (of whose conversation the prompt is the only message, and which adds
    tokens of its own around it). A label that is not listed gets an upper bound. Elsewhere the
    model's written answer is read. A prompt that the model or a filter refuses, or whose answer
    names no label, leaves all labels equally probable.

    Parameters
    ----------
    model, base_url, key_variable, api, scores, concurrency, timeout, attempts
        Keys of the [llm] table; ``timeout`` in seconds.
    requests_per_minute : float
        Of all ``workers`` together, each of which keeps to its share; 0 for no limit.
    sleep
        How to let seconds pass.

    Attributes
    ----------
    scored_by : str
        What the first request has found out: answers scored in another way are other answers.

    Raises
    ------
    ModelError
        The key is missing, or the server refuses a first, tiny request.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        key_variable: str,
        api: Literal["chat", "completion"],
        scores: Literal["auto", "logprobs", "answers"],
        concurrency: int,
        timeout: float,
        attempts: int,
        requests_per_minute: float,
        workers: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        endpoint = Endpoint(model, base_url, key_variable, api, timeout, attempts)
        self._client = Client(endpoint, Pace(requests_per_minute / workers, sleep=sleep), sleep)
        self._chat = api == "chat"
        self._concurrency = concurrency
        self.at_once: int | None = ROUNDS * concurrency
        self._first_tokens = FirstTokens()
        self._told: set[str] = set()
        # What the trial costs is told with the first scores.
        self._spent = Account(SPARE)
        self._alternatives = self._trial(scores)
        self.scored_by = (
            f"top {self._alternatives} log-probabilities" if self._alternatives else "answers"
        )
        self.description = f"{model}, {self._client.server}, {api} API, by its {self.scored_by}"
        if scores == "auto" and not self._alternatives:
            warnings.warn(
                f"{self._client.server} gives no log-probabilities: labels are scored by the"
                f" answers that {model} writes, which tells less (llm.scores = 'answers' says so"
                " without this warning)",
                stacklevel=2,
            )

    def label_log_probabilities(self, prompts: Sequence[Prompt], labels: Sequence[str]) -> Scores:
        """See `asyndbt_mpi.llm.base.LanguageModel`; equal prompts are asked once.

        Whatever is raised, also from a handler of signals, is raised at once: requests under way
        are left to themselves, and no more are sent.

        Raises
        ------
        ModelError
            The server fails, does not take a request, or is paid for more than `most_calls`; a
            label cannot be scored by its API.
        """
        self._check_labels(labels)
        texts = [prompt.context + prompt.query for prompt in prompts]
        if not all(texts):
            raise ValueError("a prompt has no text")
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return Scores(np.empty((0, len(labels))), calls=0, prompt_tokens=0)
        account = Account(self.most_calls(len(distinct), labels), self._spent)
        self._spent = Account(0)
        found, refused = self._score(distinct, labels, account)
        if refused.any():
            self._warn_once(f"{self._client.server} refused a prompt")
        if len(labels) > 1 and not np.ptp(found[~refused], axis=1).all():
            self._warn_once(f"an answer of {self._client.server} has none of the labels")
        found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
        number = {text: n for n, text in enumerate(distinct)}
        return Scores(
            found[[number[text] for text in texts]],
            account.calls,
            account.prompt_tokens,
            account.completion_tokens,
        )

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """The most that `label_log_probabilities` of so many prompts ever counts as calls."""
        scores: Literal["logprobs", "answers"] = "logprobs" if self._alternatives else "answers"
        return most_calls(self._client.endpoint.api, scores, labels, prompts)

    def longest(self, text: str) -> int:
        """A bound on the tokens of a prompt: see `bounds.longest`."""
        return longest(text)

    # ------------------------------------------------------------------------------------ scores

    def _score(
        self, texts: list[str], labels: Sequence[str], account: Account
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Log-probabilities (P, U), normalised or not, and which prompts (P,) were refused."""
        rows: list[NDArray[np.float64] | None]
        if not self._alternatives:
            tokens = answer_tokens(labels)

            def written(text: str) -> str:
                return self._ask(text, tokens, read_text, account)

            answers = self._each(written, texts, account)
            refused = [answer is None for answer in answers]
            rows = [None if answer is None else of_answer(answer, labels) for answer in answers]
        elif self._chat:

            def first(text: str) -> Alternatives:
                return self._ask(text, 1, read_alternatives, account)

            listed = self._each(first, texts, account)
            found = self._first_tokens.log_probabilities(labels, listed)
            refused = [one is None for one in listed]
            rows = list(found)
        else:

            def whole(text: str) -> NDArray[np.float64]:
                return walk(
                    labels, lambda behind: self._ask(text + behind, 1, read_alternatives, account)
                )

            rows = self._each(whole, texts, account)
            refused = [row is None for row in rows]
        nothing = np.zeros(len(labels))
        return np.array([nothing if row is None else row for row in rows]), np.array(refused)

    def _each(
        self, score: Callable[[str], T], texts: list[str], account: Account
    ) -> list[T | None]:
        """What ``score`` returns for each text, in order; None where the server refused."""
        results: list[T | None] = [None] * len(texts)

        def numbered(place: int) -> tuple[int, T | None]:
            try:
                return place, score(texts[place])
            except Filtered:
                return place, None

        # Its threads are daemons: neither leaving this block nor the interpreter's exit waits
        # for their requests, as they would for those of a ThreadPoolExecutor.
        with ThreadPool(min(self._concurrency, len(texts))) as pool:
            try:
                for place, result in pool.imap_unordered(numbered, range(len(texts))):
                    results[place] = result
            finally:
                account.close()
        return results

    def _ask(self, text: str, tokens: int, read: Callable[[Any], T], account: Account) -> T:
        alternatives = self._alternatives if read is read_alternatives else 0
        return self._client.ask(self._body(text, tokens, alternatives), text, read, account)

    def _body(self, text: str, tokens: int, alternatives: int) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": tokens, "temperature": 0}
        if self._chat:
            body["messages"] = [{"role": "user", "content": text}]
            return body | ({"logprobs": True, "top_logprobs": alternatives} if alternatives else {})
        return body | {"prompt": text} | ({"logprobs": alternatives} if alternatives else {})

    def _check_labels(self, labels: Sequence[str]) -> None:
        names = list(labels)
        if self._chat or not self._alternatives:
            names = [label.strip() for label in labels]
        if not self._alternatives:
            names = [name.casefold() for name in names]
        if not names or not all(names):
            raise ValueError("there are no labels, or one is empty")
        if len(set(names)) < len(names):
            raise ValueError(f"labels {list(labels)} cannot be told apart by {self.description}")

    def _warn_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(f"{what}: all labels are then equally probable", stacklevel=3)

    # ------------------------------------------------------------------------------------- trial

    def _trial(self, scores: Literal["auto", "logprobs", "answers"]) -> int:
        """How many alternatives the server grants, 0 for scores by answers; it must answer."""
        offers = {"auto": (*GRANTED, 0), "logprobs": GRANTED, "answers": (0,)}[scores]
        for number in offers:
            body = self._body(TRIAL, 1, number)
            try:
                listed = self._client.ask(body, TRIAL, _has_alternatives, self._spent)
            except Refused:
                if number == offers[-1]:
                    raise
                continue
            if listed or scores != "logprobs":
                return number if listed else 0
            break
        raise ModelError(
            f"{self._client.server} gives no log-probabilities: llm.scores = 'answers' does"
            " without, or llm.api may have to be another"
        )


def _has_alternatives(choice: Mapping[str, Any]) -> bool:
    try:
        read_alternatives(choice)
    except Filtered:
        raise Unusable("the answer to the first request is a refusal") from None
    except Unusable:
        return False
    return True
