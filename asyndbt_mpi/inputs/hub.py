"""Whether the Hugging Face hub can be reached; its own libraries try for minutes."""

import importlib
import socket
import threading
from urllib.parse import urlsplit

PATIENCE = 5.0
"""Seconds to reach it."""


def unreachable() -> str | None:
    """Why nothing can be downloaded from the hub, after at most `PATIENCE` seconds; None if it can.

    The package huggingface_hub must be installed.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "the environment variable HF_HUB_OFFLINE forbids to ask the hub"
    session = importlib.import_module("huggingface_hub.utils").get_session()
    reached: list[bool] = []

    def look() -> None:
        try:
            answer = session.head(constants.ENDPOINT, timeout=PATIENCE)
            reached.append(answer.status_code < 500)  # else a proxy, or an outage
        except Exception:  # of any of several libraries
            return

    # Looking a name up has no time limit of its own.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if any(reached):
        return None
    return (
        f"{urlsplit(constants.ENDPOINT).hostname} cannot be reached from {socket.gethostname()}"
        f" within {PATIENCE:g} s"
    )
