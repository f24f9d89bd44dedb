"""How much a model can read, known before its weights are loaded."""

from typing import Any

from asyndbt_mpi.llm.checkpoint import find

NAMES = ("max_position_embeddings", "max_target_positions", "max_seq_len", "n_positions", "n_ctx")
"""What configurations call it."""


def context_length(model: str) -> int | None:
    """How many tokens ``model`` reads at most; None if it has no limit or is not on this machine.

    Raises
    ------
    ModelError
        The model is not there, or has no weights.
    """
    place = find(model)
    if place is None or not place.is_dir():  # still to be fetched, or converted
        return None
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(place)
    except (OSError, ValueError):
        return None  # loading tells what is wrong with it
    return positions(config)


def positions(config: Any) -> int | None:
    """The positions that a network of ``config`` has; None for no limit, which some write as -1."""
    config = config.get_text_config()
    lengths = (getattr(config, name, None) for name in NAMES)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)
