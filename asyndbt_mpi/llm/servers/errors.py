"""What the errors of a server with OpenAI's API mean, and what would mend them."""

import re
from typing import Any
from urllib.parse import urlsplit

from asyndbt_mpi.llm.servers import words
from asyndbt_mpi.llm.servers.key import variable_of

AGAIN = {408, 409, 429}
"""Statuses that may pass, besides those from 500 on."""

REFUSED = {400, 422}
"""Statuses of a request that the server does not take as it is."""

UNLISTED = {404, 405, 501}
"""Statuses of a server that does not list its models."""

FILTERED = {"content_filter", "data_inspection_failed"}
"""Codes with which Azure and DashScope refuse a prompt because of what it says (status 400)."""

BUSY = re.compile(
    r"overload|rate.?limit|too many requests|temporar|unavailable|busy|capacity|time.?out|timed out"
    r"|try again|server_error|internal error",
    re.IGNORECASE,
)
"""Words of an error, in an answer with status 200, that may pass."""

NO_MONEY = re.compile(
    rb'"(?:code|type)"\s*:\s*"(?:insufficient_quota|insufficient_balance|Arrearage'
    rb'|billing_[a-z_]+)"'
)
"""In an error that does not pass before somebody pays, whatever its status."""

NO_ERROR = (0, "0", 200, "200", "success")
"""Codes of an "error" that is none, beside a choice."""

TO_TLS = re.compile(r"plain HTTP request was sent to HTTPS|HTTP request to an HTTPS", re.IGNORECASE)
"""Words of a server that was spoken to without TLS."""


def is_none(error: Any) -> bool:
    """Whether what stands as an "error" beside a choice says that there was none."""
    if not isinstance(error, dict):
        return False
    return error.get("code") in NO_ERROR or not any(error.values())


def has_version(base_url: str) -> bool:
    """Whether an address has a part such as /v1; "" is OpenAI's own, which does."""
    return not base_url or re.search(r"/v[0-9]", urlsplit(base_url).path) is not None


def of_address(base_url: str) -> str:
    """What to do about an address at which there seems to be another service, or none."""
    if has_version(base_url):
        return "check llm.base_url"
    return f"llm.base_url may have to be {base_url.rstrip('/') + '/v1'!r}"


def hint(status: int, said: str, base_url: str, key_variable: str) -> str:
    """What to do about an error with this ``status`` and these words; "" if that is not known."""
    if TO_TLS.search(said):
        return "llm.base_url may have to begin with https://"
    if status == 407:
        return "give the proxy's user and password in that variable: http://user:password@host"
    if switch := re.search(r"\b(enable_thinking)\b", said):
        return f"switch it off with llm.extra_body = {{ {switch[1]} = false }}"
    if status in (401, 403):
        variable = variable_of(base_url, key_variable)
        if status == 403 and said != words.NOTHING:
            return f"its key is in the environment variable {variable}" if variable else ""
        if not variable:
            return "set llm.key_variable to the environment variable with its key"
        return f"check the key in the environment variable {variable}"
    if status in (404, 405) and not has_version(base_url):
        return of_address(base_url)
    if status == 404 or 300 <= status < 400:
        return "check llm.model, llm.base_url and llm.api"
    if "context" in said.lower():
        return "a prompt is longer than the model can read: show shorter demonstrations"
    return "check llm.model, llm.api and llm.scores"
