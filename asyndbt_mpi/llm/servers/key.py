"""Which key goes to which server: never one to a server that it was not meant for."""

import os
from urllib.parse import urlsplit

from asyndbt_mpi.llm.base import ModelError

OPENAI_URL = "https://api.openai.com/v1"
"""Said, not left to the library, which would look into the environment first."""

OPENAI_VARIABLE = "OPENAI_API_KEY"
"""Where OpenAI's own library looks for the key of its own server."""


def variable_of(base_url: str, named: str) -> str:
    """The environment variable whose key the server at ``base_url`` gets; "" for none.

    ``named`` is llm.key_variable.  Without it only OpenAI's own server gets OpenAI's key: another
    one must not be given it unasked.
    """
    own, address = urlsplit(OPENAI_URL), urlsplit(base_url or OPENAI_URL)
    is_own = (address.scheme, address.netloc) == (own.scheme, own.netloc)
    return named or (OPENAI_VARIABLE if is_own else "")


def read_key(base_url: str, named: str) -> str:
    """The key for the server at ``base_url``, from the environment; "" if it is to have none.

    Raises
    ------
    ModelError
        The environment variable is not set, or holds no key; the error never quotes it.
    """
    variable = variable_of(base_url, named)
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        hint = (
            "; for a server that needs none omit llm.key_variable"
            if base_url
            else " (llm.key_variable), or set llm.base_url to a server that needs none"
        )
        raise ModelError(f"there is no key: put it into the environment variable {variable}{hint}")
    # Said here, since the libraries below would quote the key.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(f"the environment variable {variable} contains characters that no key has")
    return key
