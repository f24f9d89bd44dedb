"""Checks that all ranks, each reading for itself, read the same configuration, words and data."""

import json
import socket
from collections.abc import Sequence
from hashlib import blake2b

from asyndbt_mpi.assemble import Materials
from asyndbt_mpi.config import Config, ConfigurationError, difference

OTHER = {
    "configuration": "another configuration",
    "word list": "another word list",
    "data": "other data",
}


def digests(config: Config, materials: Materials) -> dict[str, str]:
    """Digests of everything that a rank reads for itself, by what it is."""
    return {
        "configuration": _digest(config.to_toml()),
        "word list": _digest("\n".join(materials.vocabulary)),
        "data": materials.data_digest,
    }


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def reading(config: Config, materials: Materials) -> str:
    """A summary of what this rank has read, for `first_difference`."""
    return json.dumps([socket.gethostname(), config.to_toml(), digests(config, materials)])


def first_difference(readings: Sequence[str]) -> str | None:
    """The first rank that has read something different from rank 0, and what; None if none has.

    ``readings`` are all ranks' `reading`, by rank.
    """
    first_host, first_config, first = json.loads(readings[0])
    for rank, text in enumerate(readings):
        try:
            host, config, own = _parse(text)
        except (ValueError, RecursionError):
            return f"rank {rank} sent a malformed summary of what it has read"
        for what in first:
            if own.get(what) != first[what]:
                key = _key(config, first_config) if what == "configuration" else ""
                return (
                    f"rank {rank} on {host} has read {OTHER[what]} than rank 0 on {first_host}"
                    f"{key}; have all nodes read the same files"
                )
    return None


def _parse(text: str) -> tuple[str, str, dict[str, str]]:
    host, config, own = json.loads(text)
    if not (isinstance(host, str) and isinstance(config, str) and isinstance(own, dict)):
        raise ValueError("neither host, configuration nor digests")
    return host, config, own


def _key(own: str, first: str) -> str:
    """The first key in which two configurations differ."""
    try:
        return f": {difference(Config.from_toml(own), Config.from_toml(first))}"
    except ConfigurationError:
        return ""  # of another version, which has other keys
