"""The texts of tokens, however a server spells them."""

import re
from typing import Any

from asyndbt_mpi.llm.servers.failures import Unusable

OF_A_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""SentencePiece's spelling of a byte that is no character."""

ESCAPED = re.compile(r"\\x([0-9A-Fa-f]{2})")
"""A byte in "bytes:\\xe2\\x80", which OpenAI's older API spells such tokens as."""

OF_A_NUMBER = re.compile(r"token_id:\d+")

END_OF_TEXT = re.compile(
    r"</s>|[<\[]\W?(eos|eot|eom|end|im_end|return|end.?of.?(text|turn|sentence|message|utterance)"
    r"|(eot|eom|eos|end_of_turn)_(id|token))\W?[>\]]",
    re.IGNORECASE,
)
"""Tokens with which models end what they write, as they are spelt where they have a spelling."""

WORD_BEGINS = "Ġ▁"
"""A leading space, in the vocabularies of byte-level BPE and of SentencePiece."""


def _byte_of_character() -> dict[str, int]:
    """The bytes that characters stand for in vocabularies of byte-level BPE (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(256) if byte not in shown)
    return table | {chr(0x100 + number): byte for number, byte in enumerate(hidden)}


BYTE_OF_CHARACTER = _byte_of_character()


def text_of(token: str, given: Any, plain: bool) -> bytes:
    """The text of a token, which need not be whole characters.

    ``given`` are the bytes that the server says it has, and ``plain`` whether tokens beside it
    have spaces: then none is spelt as the vocabulary spells it.

    Raises
    ------
    Unusable
        It is spelt by its number.
    TypeError, ValueError
        There is no such text.
    """
    if OF_A_NUMBER.fullmatch(token):
        raise Unusable(
            "the server lists tokens by their numbers: start it without"
            " --return-tokens-as-token-ids"
        )
    own = token.encode() if given is None else _bytes_of(given)
    if own != token.encode():
        return own
    if byte := OF_A_BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    if token.startswith("bytes:"):
        spelt = token.removeprefix("bytes:").encode().decode("latin-1")
        return ESCAPED.sub(lambda found: chr(int(found[1], 16)), spelt).encode("latin-1")
    if "▁" in token and not END_OF_TEXT.fullmatch(token):
        return token.replace("▁", " ").encode()
    return own if plain else _of_bytes(token)


def _bytes_of(given: Any) -> bytes:
    # A single number would be taken for how many bytes there are to be, all of them zero.
    if not isinstance(given, list):
        raise TypeError
    return bytes(given)


def _of_bytes(token: str) -> bytes:
    """The text of a token as byte-level BPE spells it, or, where it cannot be so spelt, itself."""
    own = token.encode()
    if token.isascii() or not all(character in BYTE_OF_CHARACTER for character in token):
        return own
    spelt = bytes(BYTE_OF_CHARACTER[character] for character in token)
    if any((byte < 0x20 and byte not in b"\t\n\r") or byte == 0x7F for byte in spelt):
        return own
    try:
        decoded = spelt.decode()
    except UnicodeDecodeError:
        # Within a character; without a space it may as well be a text of these letters.
        return spelt if token[0] in WORD_BEGINS else own
    return decoded.encode()


def ends_text(token: str) -> bool:
    """Whether a token is one with which a model ends what it writes."""
    return bool(END_OF_TEXT.fullmatch(token.strip()))
