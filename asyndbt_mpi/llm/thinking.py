"""Models that think before they answer: how that shows, and what to do about it."""

import re
from collections.abc import Mapping
from typing import Any

NAMES = "think|thinking|thought|thoughts|reason|reasoning|seed:think|analysis"

BEGINNING = re.compile(
    rf"\s*(<({NAMES})\b|\[think\]|◁think▷|<\|(channel|start_thinking|begin_of_thought|think)\|>)",
    re.IGNORECASE,
)
"""How a text begins that is no answer yet."""

THOUGHT = re.compile(
    rf"\s*(?:<(?P<name>{NAMES})>.*?</(?P=name)>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷"
    r"|<\|START_THINKING\|>.*?<\|END_THINKING\|>|<\|channel\|>.*<\|channel\|>final<\|message\|>)",
    re.DOTALL | re.IGNORECASE,
)
"""Thoughts that are at their end."""

UNOPENED = re.compile(rf"(?s).*</({NAMES})>", re.IGNORECASE)
"""Thoughts whose beginning a chat's template has written."""

ASIDE = ("reasoning_content", "reasoning")
"""Where servers put thoughts that they take out of the answer."""

SWITCH = (
    "switch that off by llm.extra_body, as in { chat_template_kwargs = { enable_thinking = false }"
    " } (vLLM, SGLang, llama.cpp), { enable_thinking = false } (DashScope) or { reasoning_effort ="
    " 'none' } (OpenAI), or have prompts continued as they are: llm.api = 'completion'"
)
"""What to do about it."""


class Thinks(Exception):
    """The model began to think, and has not answered."""


def behind_thoughts(text: str) -> str:
    """The answer behind thoughts, if there are some.

    Raises
    ------
    Thinks
        They have not come to their end, or nothing follows.
    """
    answer = THOUGHT.sub("", text, count=1) if BEGINNING.match(text) else UNOPENED.sub("", text)
    if answer != text and not answer.strip():
        raise Thinks
    if BEGINNING.match(answer):
        raise Thinks
    return answer


def check_not_begun(token: str) -> None:
    """Raise `Thinks` if the first ``token`` of an answer is one that thoughts begin with."""
    if BEGINNING.match(token):
        raise Thinks


def check_not_thinking(choice: Mapping[str, Any]) -> None:
    """Raise `Thinks` if an answer's ``choice`` has thoughts and no answer.

    The answer's usage, which is with it, may count thoughts that are not shown.
    """
    message, usage = choice.get("message"), choice.get("usage")
    if not isinstance(message, Mapping):
        return
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        return
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    counted = isinstance(details, Mapping) and details.get("reasoning_tokens")
    if counted or any(message.get(name) for name in ASIDE):
        raise Thinks
