"""A server with OpenAI's API on this machine, around a toy model: polite, rude or as told.

As a program, ``python tests/llm/api_server.py --port 0 --rude SEED --ledger FILE`` prints its
base URL and serves until it is killed. Its answers depend on the prompt alone. When it is rude, a
seeded share of requests goes wrong, but never more than `IN_A_ROW` times in a row for one prompt;
some prompts are refused whenever they come. The ledger gets a line for each request: the
SHA-256 of the prompt, a tab, and what was done (`Ledger`).
"""

import argparse
import hashlib
import json
import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

VOCABULARY = [
    *(" good", " bad", " great", " terr", " ter", " t", " no", " not", " yes", " positive"),
    *(" negative", " neg", "ative", "ible", "rible", "er", "e", "i", "b", "l", "r"),
    *("good", "bad", "yes", "no", "positive", "negative", ".", "\n", "the", " the"),
]
END = ("\n", ".")
WORDS = ("good", "bad", "yes", "no", "positive", "negative")
"""Behind which the model writes no more."""

FAULTS = ("429", "500", "slow", "truncated", "malformed", "no choices", "closed")
RUDENESS = 0.3
"""Share of requests that go wrong."""
IN_A_ROW = 2
REFUSED = 1 / 32
"""Share of prompts that a rude server refuses; none so short as to be a first try."""
SHORT = 20


def next_tokens(text: str) -> dict[str, float]:
    """The toy model: the probability of each token behind a text."""
    draw = random.Random(hashlib.sha256(text.encode()).digest())
    weights = [math.exp(draw.gauss(0, 1.5)) for _ in VOCABULARY]
    total = sum(weights)
    return {token: weight / total for token, weight in zip(VOCABULARY, weights, strict=True)}


def likeliest(text: str, number: int) -> list[tuple[str, float]]:
    """The ``number`` likeliest tokens behind a text, with log-probabilities."""
    ranked = sorted(next_tokens(text).items(), key=lambda item: -item[1])
    return [(token, math.log(probability)) for token, probability in ranked[:number]]


def write(text: str, tokens: int) -> str:
    """What the model writes behind a text."""
    written = ""
    for _ in range(tokens):
        token = likeliest(text + written, 1)[0][0]
        written += token
        if token in END or token.strip() in WORDS:
            break
    return written


@dataclass
class Manners:
    """How the server behaves.

    ``faults`` are done one by one, then it is polite; "any text" is answered as it is, with
    status 200, "echo 500" is an error that quotes the prompt. ``most`` alternatives are granted, more are refused with 400; 0: it has none.
    ``older``: completions have the format of OpenAI's older models, or llama.cpp's.
    ``body`` stands in place of JSON in errors. ``says`` is what it writes, whatever it is asked,
    ``beside`` what else its messages have. ``spelt`` is how it spells tokens. ``refuses`` are
    parameters that it does not take, and its words. ``models`` is its list of them, which as often
    as ``unlisted`` says comes with an error instead ("hangs": so late that nobody waits), and
    ``name`` what its answers say. ``status`` is that of answers, ``counts`` what stands in their usage.
    """

    faults: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "the server's own words"
    code: str | None = None
    most: int = 20
    older: bool = True
    seconds: float = 0.0
    slow: float = 2.0
    usage: bool = True
    refuse: bool = False
    rude: int | None = None
    body: str | None = None
    says: str | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    spelt: Literal["", "bpe", "sentencepiece", "spaceless", "capitals"] = ""
    refuses: dict[str, str] = field(default_factory=dict)
    models: list[dict[str, Any]] | None = None
    unlisted: list[str] = field(default_factory=list)
    name: str = ""
    fingerprint: str = ""
    status: int = 200
    counts: dict[str, Any] = field(default_factory=dict)


def spell(token: str, how: str) -> str:
    """A token as a vocabulary spells it, or as a server that decodes it badly."""
    if how == "bpe":
        return token.replace(" ", "Ġ").replace("\n", "Ċ")
    if how == "sentencepiece":
        return "<0x0A>" if token == "\n" else token.replace(" ", "▁")
    if how == "spaceless":
        return token.removeprefix(" ")
    return token.capitalize() if how == "capitals" else token


class Server(ThreadingHTTPServer):
    """Also keeps what it was asked, and how many requests were under way at most."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, manners: Manners, ledger: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.manners = manners
        self.asked: list[dict[str, Any]] = []
        self.looks = 0
        self.headers: list[Message] = []
        self.done: list[str] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self._ledger = ledger
        self._requests: Counter[str] = Counter()
        self._wrong: defaultdict[str, int] = defaultdict(int)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("Authorization") for headers in self.headers]

    def choose(self, prompt: str) -> str:
        """What to do with a request: a fault, "refusal" or "answer"."""
        with self.lock:
            if self.manners.faults:
                return self.manners.faults.pop(0)
            if self.manners.refuse:
                return "refusal"
            if self.manners.rude is None:
                return "answer"
            return self._rudely(prompt, self.manners.rude)

    def _rudely(self, prompt: str, seed: int) -> str:
        of_prompt = random.Random(f"{seed} {prompt}")
        if len(prompt) >= SHORT and of_prompt.random() < REFUSED:
            return "refusal"
        number = self._requests[prompt]
        self._requests[prompt] += 1
        draw = random.Random(f"{seed} {number} {prompt}")
        if draw.random() >= RUDENESS or self._wrong[prompt] >= IN_A_ROW:
            self._wrong[prompt] = 0
            return "answer"
        self._wrong[prompt] += 1
        return draw.choice(FAULTS)

    def write_down(self, prompt: str, done: str) -> None:
        """A line of the ledger."""
        with self.lock:
            self.done.append(done)
            if self._ledger:
                with self._ledger.open("a") as file:
                    file.write(f"{hashlib.sha256(prompt.encode()).hexdigest()}\t{done}\n")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def is_elsewhere(self) -> bool:
        """Whether the path is none of this server's; then it has answered."""
        if not self.path.startswith("/v1/"):
            self.send(404, b'{"detail": "Not Found"}')
            return True
        return False

    def do_GET(self) -> None:
        if self.is_elsewhere():
            return
        models = self.server.manners.models
        self.server.looks += 1
        if self.server.manners.unlisted:
            how = self.server.manners.unlisted.pop(0)
            if how == "hangs":
                time.sleep(self.server.manners.slow)
                self.close_connection = True
                return
            self.send(int(how), b'{"error": "the list is being made"}')
            return
        content = json.dumps({"object": "list", "data": models}).encode()
        self.send(404 if models is None else 200, b"{}" if models is None else content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_elsewhere():
            return
        chat = self.path.endswith("/chat/completions")
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.headers.append(self.headers)
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            time.sleep(server.manners.seconds)
            what = server.choose(prompt)
            # Before the answer: the client may be killed by what it does with it.
            server.write_down(prompt, what)
            self.act(what, body, prompt, chat)
        finally:
            with server.lock:
                server.busy -= 1

    def act(self, what: str, body: dict[str, Any], prompt: str, chat: bool) -> None:
        manners = self.server.manners
        if what == "slow":
            time.sleep(manners.slow)
            self.close_connection = True
        elif what == "drips":
            self.send(200, b" ", length=10_000)
            with suppress(OSError):
                for _ in range(100):
                    time.sleep(0.1)
                    self.wfile.write(b" ")
            self.close_connection = True
        elif what == "closed":
            self.close_connection = True
        elif what == "truncated":
            self.send(200, b'{"choices": [{"text"', length=1000)
            self.close_connection = True
        elif what == "malformed":
            self.send(200, b'{"choices": [{"text"')
        elif what == "no choices":
            self.send(200, json.dumps({"choices": [], "usage": self.usage(prompt, 1)}).encode())
        elif what == "no logprobs":
            self.send(
                200, json.dumps(self.answer(body | {"logprobs": None}, prompt, chat)).encode()
            )
        elif what.startswith("echo "):
            content = json.dumps({"error": {"message": f"cannot take {prompt}"}}).encode()
            self.send(int(what.removeprefix("echo ")), content)
        elif what.isdigit():
            rude = {"Retry-After": "1"} if manners.rude is not None and what == "429" else {}
            error = {"message": manners.message, "code": manners.code, "type": "x"}
            content = json.dumps({"error": error}).encode()
            if manners.body is not None:
                content = manners.body.encode()
            self.send(int(what), content, headers=manners.headers | rude)
        elif what in ("answer", "refusal"):
            alternatives = body.get("top_logprobs" if chat else "logprobs") or 0
            refused = [words for name, words in manners.refuses.items() if name in body]
            if refused:
                self.send(400, json.dumps({"error": {"message": refused[0]}}).encode())
            elif manners.most and alternatives > manners.most:
                self.send(400, b'{"error": {"message": "too many logprobs"}}')
            else:
                content = json.dumps(self.answer(body, prompt, chat, what == "refusal")).encode()
                self.send(manners.status, content)
        else:
            self.send(200, what.encode())

    def answer(
        self, body: dict[str, Any], prompt: str, chat: bool, refusal: bool = False
    ) -> dict[str, Any]:
        manners = self.server.manners
        tokens = body.get("max_tokens") or body["max_completion_tokens"]
        text = write(prompt, tokens) if manners.says is None else manners.says
        text = "" if refusal else text
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "content_filter" if refusal else "length",
            "logprobs": None,
        }
        message = {"role": "assistant", "content": text, **manners.beside}
        choice |= {"message": message} if chat else {"text": text}
        most = manners.most
        if body.get("logprobs") and most and not refusal:
            number = min(body["top_logprobs"] if chat else body["logprobs"], most)
            listed = [(spell(token, manners.spelt), p) for token, p in likeliest(prompt, number)]
            if manners.says is not None:
                listed = [(manners.says, -0.01), ("something else", -6.0)]
            choice["logprobs"] = (
                {"tokens": [listed[0][0]], "top_logprobs": [dict(listed)]}
                if manners.older and not chat
                else {"content": [as_content(listed)]}
            )
        answer: dict[str, Any] = {"id": "1", "object": "x", "created": 0}
        answer["model"] = manners.name or body["model"]
        answer["choices"] = [choice]
        if manners.fingerprint:
            answer["system_fingerprint"] = manners.fingerprint
        if manners.usage:
            answer["usage"] = self.usage(prompt, tokens)
        return answer

    def usage(self, prompt: str, completion: int) -> dict[str, int]:
        counted = {"prompt_tokens": len(prompt.split()), "completion_tokens": completion}
        return counted | self.server.manners.counts

    def send(
        self,
        status: int,
        content: bytes,
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def as_content(listed: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The format of chat APIs and of llama.cpp."""
    top = [
        {"token": token, "bytes": list(token.encode()), "logprob": value} for token, value in listed
    ]
    return top[0] | {"top_logprobs": top}


@contextmanager
def serving(manners: Manners) -> Iterator[Server]:
    """A server in a thread of this process."""
    server = Server(0, manners)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rude", type=int, help="seed of its misbehaviour")
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--slow", type=float, default=5.0, help="seconds of a slow request")
    arguments = parser.parse_args()
    manners = Manners(rude=arguments.rude, slow=arguments.slow)
    server = Server(arguments.port, manners, arguments.ledger)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
