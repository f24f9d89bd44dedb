"""Whether a worker finds its language model; the weights are not read."""

import os
from pathlib import Path

from asyndbt_mpi.doctor.findings import Finding, ok, problem, warning
from asyndbt_mpi.doctor.places import unwritable
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.checkpoint import check, find
from asyndbt_mpi.llm.converted import cache_folder

OFF = ("", "0", "false", "no", "off")


def find_model(llm: Llm) -> list[Finding]:
    """Where a model that runs in the worker's process is."""
    try:
        place = find(llm.model)
    except ModelError as error:
        return [problem("model", str(error), "put it on every node, or into a shared folder")]
    if place is None:
        return [_of_the_hub(llm.model)]
    if place.suffix != ".gguf":
        return [_whole(llm.model, place)]
    cache = cache_folder()
    if why := unwritable(cache):
        text = f"{place} must be converted, but {cache} cannot be written to: {why}"
        return [problem("model", text, "set ASYNDBT_CACHE to a writable folder")]
    return [ok("model", f"{place}, which the first run on a node converts (into {cache})")]


def _whole(model: str, place: Path) -> Finding:
    """Whether the model's files are complete, and belong together."""
    try:
        check(model)
    except ModelError as error:
        return problem("model", str(error))
    return ok("model", f"{model} is in {place}")


def _of_the_hub(model: str) -> Finding:
    text = f"there is no folder {model} here, and no model {model} in the cache of the hub"
    where = "into a folder that all nodes see (HF_HOME)"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in OFF:
        hint = f"correct llm.model, or download it where there is a network, {where}"
        text = f"{text}, and HF_HUB_OFFLINE forbids downloading it"
        return problem("model", text, f"{hint}: hf download {model}")
    hint = f"correct llm.model, or download it beforehand, {where}: hf download {model}"
    return warning("model", f"{text}: every node must reach the hub, which few can", hint)
