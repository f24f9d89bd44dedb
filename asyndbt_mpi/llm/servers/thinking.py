"""Models that think before they answer: how that shows, and what to do about it."""

import re
from collections.abc import Mapping
from typing import Any

NAMES = "think|thinking|thought|thoughts|reason|reasoning|reflection|scratchpad|seed:think|analysis"

FORMS = {
    rf"(?:<|&lt;)(?P<tag>{NAMES})\b[^>&\n]*(?:>|&gt;)": r"(?:<|&lt;)/(?P=tag)(?:>|&gt;)",
    r"<details\s+type=.?(?:reasoning|thinking)\b[^>\n]*>": "</details>",
    rf"\[(?P<bracket>{NAMES})\]": r"\[/(?P=bracket)\]",
    "◁think▷": "◁/think▷",
    r"[<‹][|｜]think[|｜][>›]": r"[<‹][|｜](?:/|end_of_|end_)think[|｜][>›]",
    r"<\|start_thinking\|>": r"<\|end_thinking\|>",
    r"<\|begin_of_thought\|>": r"<\|end_of_thought\|>",
    rf"```(?:{NAMES})\b": "\n```",
    # Of several channels, the last one is final.
    r"(?:<\|start\|>assistant)?<\|channel\|>": r"(?<=<\|channel\|>)final<\|message\|>",
    # The same, where a server has taken the signs out.
    "(?-i:analysis(?=[A-Z]))": "assistantfinal",
}
"""How thoughts begin, and how they end."""

BEGINNING = re.compile(rf"\s*(?:{'|'.join(FORMS)}|<(?:{NAMES})\b|<\|start\|>)", re.IGNORECASE)
"""How a text begins that is no answer yet."""

THOUGHT = re.compile(
    rf"\s*(?:{'|'.join(f'{begin}.*?{end}' for begin, end in FORMS.items())})",
    re.DOTALL | re.IGNORECASE,
)
"""Thoughts that are at their end."""

END = re.compile(
    rf"(?P<opens><|&lt;|\[|◁|<\|)(?:/|end_)(?P<name>{NAMES})(?:>|&gt;|\]|▷|\|>)", re.IGNORECASE
)
"""How thoughts may end whose beginning a chat's template has written."""

ASIDE = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Where servers put thoughts that they take out of the answer."""

SWITCH = (
    "switch it off with llm.extra_body, as in { chat_template_kwargs = { enable_thinking = false }"
    " } (vLLM, SGLang, llama.cpp), { enable_thinking = false } (DashScope) or { reasoning_effort ="
    " 'none' } (OpenAI), or have prompts continued verbatim: llm.api = 'completion'"
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
    answer = text
    while thought := THOUGHT.match(answer):
        answer = answer[thought.end() :]
    for end in reversed(list(END.finditer(answer))):
        # An element with a beginning is one of the answer's own, such as a reason behind it.
        opening = rf"{re.escape(end['opens'])}(?:start_)?{re.escape(end['name'])}\b"
        if not re.search(opening, answer[: end.start()], re.IGNORECASE):
            answer = answer[end.end() :]
            break
    if answer != text and not answer.strip():
        raise Thinks
    if BEGINNING.match(answer):
        raise Thinks
    return answer


def text_of_parts(content: Any) -> str | None:
    """The text of a message's ``content``: itself, or of its parts those that are no thoughts.

    None if it is no text, or has parts that are none.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("thinking", "reasoning"):
            continue
        text = part.get("text") if kind in ("text", "output_text") else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


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
    text = text_of_parts(content)
    if text is not None and text.strip():
        return
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("completion_tokens_details")
    counts = [usage, details] if isinstance(details, Mapping) else [usage]
    counted = any(each.get("reasoning_tokens") for each in counts)
    aside = any(message.get(name) for name in ASIDE)
    # Without a text, parts can only be thoughts.
    if counted or aside or (text == "" and content):
        raise Thinks
