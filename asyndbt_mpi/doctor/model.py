"""Whether a worker finds its language model, whose weights are not read for it."""

import os
from pathlib import Path

from asyndbt_mpi.config import Llm
from asyndbt_mpi.doctor.findings import Finding, ok, problem, warning
from asyndbt_mpi.doctor.places import unwritable
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.checkpoint import cache_folder, check, find

OFF = ("", "0", "false", "no", "off")


def find_model(llm: Llm) -> list[Finding]:
    """Where a model that runs in the worker's process is."""
    try:
        place = find(llm.model)
    except ModelError as error:
        return [problem("model", str(error), "put it onto every node, or onto a shared folder")]
    if place is None:
        return [_of_the_hub(llm.model)]
    if place.suffix != ".gguf":
        return [_whole(llm.model, place)]
    cache = cache_folder()
    if why := unwritable(cache):
        text = f"{place} has to be converted, but {cache} cannot be written: {why}"
        return [problem("model", text, "name a folder that can by the variable ASYNDBT_CACHE")]
    return [ok("model", f"{place}, which the first run on a node converts (into {cache})")]


def _whole(model: str, place: Path) -> Finding:
    """Whether the files of the model are all there, and of one."""
    try:
        check(model)
    except ModelError as error:
        return problem("model", str(error))
    return ok("model", f"{model} is in {place}")


def _of_the_hub(model: str) -> Finding:
    text = f"{model} is not in the cache of Hugging Face's hub"
    where = "into a folder that all nodes see (HF_HOME)"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in OFF:
        hint = f"fetch it where there is a network, {where}: hf download {model}"
        return problem("model", f"{text}, and HF_HUB_OFFLINE forbids to fetch it", hint)
    hint = f"fetch it before, {where}: hf download {model}"
    return warning("model", f"{text}: every node must reach the hub, as few do", hint)
