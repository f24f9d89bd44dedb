"""A language model behind a server that speaks OpenAI's API: DashScope, vLLM, llama.cpp, ..."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, Literal

import numpy as np

from asyndbt_mpi.llm.base import ENDING, LabelError, ModelError, Prompt, Scores, Written
from asyndbt_mpi.llm.servers.account import LIKELY, Account, Most, count
from asyndbt_mpi.llm.servers.bounds import ROUNDS, SPARE, answer_tokens, longest, most_calls
from asyndbt_mpi.llm.servers.client import Client, Endpoint, Request
from asyndbt_mpi.llm.servers.failures import (
    Filtered,
    Forbidden,
    Refused,
    Unlisted,
    Unscorable,
    Unusable,
)
from asyndbt_mpi.llm.servers.first_tokens import FirstTokens, names_of
from asyndbt_mpi.llm.servers.outcomes import Outcome, Outcomes
from asyndbt_mpi.llm.servers.pace import Pace
from asyndbt_mpi.llm.servers.responses import (
    Alternatives,
    check_not_filtered,
    read_alternatives,
    walk,
)
from asyndbt_mpi.llm.servers.thinking import Thinks
from asyndbt_mpi.llm.servers.written import normal_form, of_answer, read_text, read_whole

GRANTED = (20, 5)
"""Alternatives to ask for: as many as OpenAI's chat API and vLLM list, or else older servers."""

TRIAL = "1 + 1 ="

MANY = 10
"""Alternatives of which some would begin with a space, if the server spelt it."""

LOOKS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each attempt to get the list of a server's models at the start."""

NEXT_LOOK = 60.0
"""Seconds before a server is asked again that could not give its list in the middle of a run."""


class OpenAIModel:
    """Scores labels by requests to a server that speaks OpenAI's API.

    Where the server lists the likeliest next tokens, a label's probability is that of its whole
    text: token by token with the completion API, and by the first token, which must be the whole
    label, with the chat API (of whose conversation the prompt is the only message, and which adds
    tokens of its own around it). A label that is not listed gets an upper bound. Elsewhere the
    model's written answer is read. A prompt that the model or a filter refuses, or whose answer
    names no label, leaves all labels equally probable; where no prompt's answer names any, that is
    an error.

    Parameters
    ----------
    model, base_url, key_variable, api, scores, concurrency, timeout, attempts, extra_body
        Keys of the [llm] table; ``timeout`` in seconds.
    requests_per_minute : float
        Of all ``workers`` together, each of which keeps to its share; 0 for no limit.
    sleep
        How to let seconds pass.

    Attributes
    ----------
    scored_by : str
        What the first request has found out: answers scored in another way are other answers.
    digest : str
        Of what the server says of the model behind it.

    Raises
    ------
    ModelError
        The key is missing, or the server refuses a first, tiny request, or has a list of models
        that it cannot give now; the model thinks before it answers.
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
        extra_body: Mapping[str, Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        extra = extra_body or {}
        endpoint = Endpoint(model, base_url, key_variable, api, timeout, attempts, extra)
        self._client = Client(endpoint, Pace(requests_per_minute / workers, sleep=sleep), sleep)
        self._sleep = sleep
        self._chat = api == "chat"
        self._concurrency = concurrency
        self.at_once: int | None = ROUNDS * concurrency
        self._first_tokens = FirstTokens()
        self._outcomes = Outcomes(model, self._client.server, self._client.shown)
        self._spaceless = False
        # What the trial costs is told with the first scores.
        self._spent = Account(SPARE)
        self._alternatives = self._trial(scores)
        self._next_look = 0.0
        self._look_first()
        self.digest = self._client.served.digest(model)
        self.scored_by = (
            f"top {self._alternatives} log-probabilities" if self._alternatives else "answers"
        )
        if self._spaceless:
            self.scored_by += ", without the spaces before words"
            warnings.warn(
                f"{self._client.server} lists tokens without the space before a word: labels are"
                " matched without it, too",
                stacklevel=2,
            )
        self.description = f"{model}, {self._client.server}, {api} API, by its {self.scored_by}"
        if scores == "auto" and not self._alternatives:
            warnings.warn(
                f"{self._client.server} gives no log-probabilities: labels are scored by the"
                f" answers that {model} writes, which is less informative (set llm.scores ="
                " 'answers' to avoid this warning)",
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
        each = Most(max(map(longest, distinct)), answer_tokens(labels))
        account = Account(self.most_calls(len(distinct), labels), each, self._spent)
        self._spent = Account(0)
        rows = self._score(distinct, labels, account)
        self._look_again()
        self._warn_of_counts(account)
        self._outcomes.note(distinct, rows, labels, self._asked_for)
        nothing = np.zeros(len(labels))
        found = np.array(
            [nothing if r.log_probabilities is None else r.log_probabilities for r in rows]
        )
        found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
        number = {text: n for n, text in enumerate(distinct)}
        return Scores(
            found[[number[text] for text in texts]],
            account.calls,
            account.prompt_tokens,
            account.completion_tokens,
            sum(rows[number[text]].log_probabilities is None for text in texts),
        )

    def write(self, prompts: Sequence[str], most_tokens: int) -> Written:
        """See `asyndbt_mpi.llm.base.LanguageModel`; equal prompts are asked once.

        Raises
        ------
        ModelError
            As `label_log_probabilities`; or each of the first prompts is refused, or thought about
            without an answer.
        """
        if most_tokens < 1:
            raise ValueError(f"most_tokens is {most_tokens}, not positive")
        if not all(prompts):
            raise ValueError("a prompt has no text")
        distinct = list(dict.fromkeys(prompts))
        if not distinct:
            return Written([], [], [], calls=0, prompt_tokens=0, completion_tokens=0)
        each = Most(max(map(longest, distinct)), most_tokens)
        most = most_calls(self._client.endpoint.api, "answers", (), len(distinct))
        account = Account(most, each, self._spent)
        self._spent = Account(0)
        # Of those that are refused, or only thought about, nothing more is known.
        found = dict.fromkeys(distinct, ("", most_tokens, False))

        def write(text: str) -> Outcome:
            body = self._body(text, most_tokens, 0)
            read = partial(_read_written, most_tokens=most_tokens)
            most = Most(longest(text), most_tokens)
            found[text] = self._client.ask(Request(body, text, read, account, most))
            return Outcome(np.zeros(0))

        rows = self._each(write, distinct, account)
        self._look_again()
        self._warn_of_counts(account)
        self._outcomes.note(distinct, rows, (), "answers")
        texts, tokens, cut = zip(*(found[prompt] for prompt in prompts), strict=True)
        return Written(
            *(list(texts), list(tokens), list(cut)),
            *(account.calls, account.prompt_tokens, account.completion_tokens),
        )

    def most_calls(self, prompts: int, labels: Sequence[str]) -> int:
        """The most that `label_log_probabilities` of so many prompts ever counts as calls."""
        scores: Literal["logprobs", "answers"] = "logprobs" if self._alternatives else "answers"
        return most_calls(self._client.endpoint.api, scores, labels, prompts)

    def longest(self, text: str) -> int:
        """A bound on the tokens of a prompt: see `bounds.longest`."""
        return longest(text)

    # ------------------------------------------------------------------------------------ scores

    def _score(self, texts: list[str], labels: Sequence[str], account: Account) -> list[Outcome]:
        """What came of each prompt."""
        if not self._alternatives:
            return self._each(lambda text: self._by_answer(text, labels, account), texts, account)
        if not self._chat:
            return self._each(lambda text: self._by_walk(text, labels, account), texts, account)
        return self._by_first_tokens(texts, labels, account)

    def _by_answer(self, text: str, labels: Sequence[str], account: Account) -> Outcome:
        def read(choice: Mapping[str, Any]) -> tuple[str, bool]:
            # Of a continued prompt one line is read, which does not go on where another begins.
            ended = ENDING[0] in str(choice.get("text", "")).strip()
            return read_text(choice), choice.get("finish_reason") == "length" and not ended

        tokens = answer_tokens(labels)
        body = self._body(text, tokens, 0)
        most = Most(longest(text), tokens)
        answer, cut = self._client.ask(Request(body, text, read, account, most))
        return Outcome(of_answer(answer, labels, cut), answer)

    def _by_walk(self, text: str, labels: Sequence[str], account: Account) -> Outcome:
        known: dict[str, Alternatives] = {}

        def ask(behind: str) -> Alternatives:
            known[behind] = self._ask_for_alternatives(text, behind, account)
            return known[behind]

        listed: set[str] = set()
        found = walk(labels, ask, self._spaceless, listed)
        return Outcome(found if listed else None, known[""].likeliest)

    def _by_first_tokens(
        self, texts: list[str], labels: Sequence[str], account: Account
    ) -> list[Outcome]:
        alternatives: dict[str, Alternatives] = {}

        def first(text: str) -> Outcome:
            alternatives[text] = self._ask_for_alternatives(text, "", account)
            return Outcome(None, alternatives[text].likeliest)

        rows = self._each(first, texts, account)
        doubted = self._first_tokens.doubted(labels, [alternatives.get(text) for text in texts])
        again = self._each(first, [texts[place] for place in doubted], account)
        for place, row in zip(doubted, again, strict=True):
            rows[place] = row
        found, listed = self._first_tokens.log_probabilities(
            labels, [alternatives.get(text) for text in texts]
        )
        return [
            Outcome(of_prompt, row.words) if is_listed else row
            for row, of_prompt, is_listed in zip(rows, found, listed, strict=True)
        ]

    def _each(
        self, score: Callable[[str], Outcome], texts: list[str], account: Account
    ) -> list[Outcome]:
        """What comes of each text, in order."""
        rows: list[Outcome] = [Outcome(None)] * len(texts)
        if not texts:
            return rows

        def patiently(text: str) -> Outcome:
            try:
                return score(text)
            except Unscorable:
                return score(text)  # it may have been a rotten answer

        def numbered(place: int) -> tuple[int, Outcome]:
            try:
                return place, patiently(texts[place])
            except Filtered:
                return place, Outcome(None, refused=True)
            except Thinks:
                return place, Outcome(None, thinks=True)

        # Its threads are daemons: neither leaving this block nor the interpreter's exit waits
        # for their requests, as they would for those of a ThreadPoolExecutor.
        with ThreadPool(min(self._concurrency, len(texts))) as pool:
            try:
                for place, row in pool.imap_unordered(numbered, range(len(texts))):
                    rows[place] = row
            except BaseException:
                account.close()
                raise
        return rows

    def _ask_for_alternatives(self, text: str, behind: str, account: Account) -> Alternatives:
        """The likeliest tokens behind the prompt ``text`` and a label's beginning."""
        body = self._body(text + behind, 1, self._alternatives)
        read = partial(read_alternatives, number=self._alternatives)
        most = Most(longest(text), 1)
        return self._client.ask(Request(body, text, read, account, most))

    def _body(self, text: str, tokens: int, alternatives: int) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": tokens, "temperature": 0}
        if self._chat:
            body["messages"] = [{"role": "user", "content": text}]
            return body | ({"logprobs": True, "top_logprobs": alternatives} if alternatives else {})
        return body | {"prompt": text} | ({"logprobs": alternatives} if alternatives else {})

    def _warn_of_counts(self, account: Account) -> None:
        if account.unmetered:
            self._outcomes.warn_once(
                f"{self._client.server} does not report how many tokens its answers cost, or"
                " reports more than they can: each such request is charged its upper bound"
            )
        if account.exceeding:
            self._outcomes.warn_once(
                f"{self._client.server} counts more tokens for a request than were reserved for"
                f" it: {LIKELY}; they are charged as reported"
            )

    def _check_labels(self, labels: Sequence[str]) -> None:
        names = list(labels)
        if not self._alternatives:
            names = [normal_form(label) for label in labels]
        elif self._chat:
            names, _ = names_of(labels)
        if not names or not all(names):
            raise LabelError("there are no labels, or one is empty")
        if len(set(names)) < len(names):
            raise LabelError(f"labels {list(labels)} cannot be distinguished by {self.description}")

    # ------------------------------------------------------------------------------------- trial

    def _trial(self, scores: Literal["auto", "logprobs", "answers"]) -> int:
        """How many alternatives the server grants, 0 for scores by answers; it must answer."""
        offers = {"auto": (*GRANTED, 0), "logprobs": GRANTED, "answers": (0,)}[scores]
        most = Most(longest(TRIAL), 1)
        for number in offers:
            body = self._body(TRIAL, 1, number)
            read = self._find_alternatives if number else _find_none
            try:
                listed = self._client.ask(Request(body, TRIAL, read, self._spent, most))
            except Refused:
                if number == offers[-1]:
                    raise
                continue
            except Thinks:
                raise ModelError(self._outcomes.thinking) from None
            if listed or scores != "logprobs":
                return number if listed else 0
            break
        raise ModelError(
            f"{self._client.server} gives no log-probabilities: set llm.scores = 'answers', which"
            " needs none, or try the other llm.api"
        )

    def _find_alternatives(self, choice: Mapping[str, Any]) -> bool:
        """Whether the first answer has alternatives, and how they are spelt."""
        try:
            found = read_alternatives(choice)
        except Filtered:
            raise Unusable("the answer to the first request is a refusal") from None
        except Unlisted:
            return False
        texts = found.probability
        spaced = any(text.startswith(b" ") and text.strip() for text in texts)
        # The bare space is among the likeliest tokens, and without its space reads "".
        self._spaceless = not (self._chat or spaced) and (b"" in texts or len(texts) >= MANY)
        return True

    def _look_first(self) -> None:
        """See which model is behind the address.

        The list must be had if there is one: a worker that went without would seem to hold another
        model than those that saw it, and would not find the answers that are kept of this one.

        Raises
        ------
        ModelError
            The list cannot be had.
        """
        for seconds in LOOKS:
            if seconds:
                self._sleep(seconds)
            try:
                return self._look_behind()
            except ModelError as error:
                last = error
        raise ModelError(
            f"{last}; so its model cannot be identified. Check the server, and start again"
        )

    def _look_again(self) -> None:
        """See whether the model has changed, if that can be seen now; else some time later.

        Raises
        ------
        ModelError
            It is another one than before.
        """
        if not self._client.served.tells_more or time.monotonic() < self._next_look:
            return
        for seconds in LOOKS:
            if seconds:
                self._sleep(seconds)
            try:
                entries = self._client.models()
            except ModelError:
                self._next_look = time.monotonic() + NEXT_LOOK
                return
            try:
                self._client.served.list(entries, self._client.endpoint.model)
            except ModelError as error:
                last = error  # said once, it may be a slip
            else:
                return
        raise last

    def _look_behind(self) -> None:
        try:
            entries = self._client.models()
        except Forbidden:
            entries = None  # as where there is no list: this will not change
        self._client.served.list(entries, self._client.endpoint.model)

    @property
    def _asked_for(self) -> Literal["answers", "first tokens", "tokens"]:
        if not self._alternatives:
            return "answers"
        return "first tokens" if self._chat else "tokens"


def _read_written(choice: Mapping[str, Any], most_tokens: int) -> tuple[str, int, bool]:
    """The text, its tokens, and whether it was cut."""
    usage = choice.get("usage")
    told = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    tokens = count(told, most_tokens)
    text = read_whole(choice)
    return text, most_tokens if tokens is None else tokens, choice.get("finish_reason") == "length"


def _find_none(choice: Mapping[str, Any]) -> bool:
    """Takes a first answer that has no alternatives to look for."""
    try:
        check_not_filtered(choice)
    except Filtered:
        raise Unusable("the answer to the first request is a refusal") from None
    return False
