"""How much a model can read, known before its weights are loaded."""

from typing import Any

from asyndbt_mpi.llm.checkpoint import find


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
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length if length and length > 0 else None
