"""Defaults that depend on other settings: on the black box, and on the estimator."""

from typing import Any

from asyndbt_mpi.inputs.sections import FUNCTIONS, Calibration

CALIBRATION: Calibration = "batch"
"""Of a language model's scores, if a batch has more than one row to be calibrated by."""

MIRROR_STEPS = {"transformers": 20.0, "openai": 20.0, "synthetic": 1.0, "python": 1.0}
"""A multiplicative step moves by its size times the loss. Mean losses of a language model differ by
about a tenth of a nat between prompts, those of the synthetic backend by about 1; a Python function
is assumed to be like the latter."""

UNUSED_BY_A_MODEL = (
    ("steps", "lower_p"),
    ("steps", "lower_z"),
    ("steps", "rho"),
    ("algorithm", "lower_participation"),
)
"""Keys that count only if the rounds of the lower level ask the black box."""


OF_A_SERVER = "base_url", "key_variable", "api", "scores", "requests_per_minute", "extra_body"

UNUSED_BY_A_BACKEND: dict[str, dict[str, tuple[str, ...]]] = {
    "transformers": {"llm": OF_A_SERVER},
    "synthetic": {"task": ("path",), "llm": ("model", *OF_A_SERVER)},
}
"""Keys that are set only by who expects them to be used: for another data set, model or server."""


def unused_by_the_backend(tables: dict[str, Any], defaults: dict[str, Any]) -> str:
    """What complete ``tables`` set besides their ``defaults`` and their back-end does not use.

    One line with the keys; "" if there are none.
    """
    backend = tables["llm"]["backend"]
    keys = [
        f"{section}.{key}"
        for section, names in UNUSED_BY_A_BACKEND.get(backend, {}).items()
        for key in names
        if tables[section][key] != defaults[section][key]
    ]
    return f"llm.backend = {backend!r} does not use {', '.join(keys)}" if keys else ""


def unused_by_a_model(tables: dict[str, Any]) -> str | None:
    """The first key of `UNUSED_BY_A_MODEL` that ``tables`` set, if there is one."""
    used = (f"{part}.{key}" for part, key in UNUSED_BY_A_MODEL if key in tables.get(part, {}))
    return next(used, None)


def without_defaults(tables: dict[str, Any]) -> dict[str, Any]:
    """``tables`` less what `with_defaults` gives them, for another estimator or back-end."""
    given = with_defaults({name: tables[name] for name in ("estimator", "llm")})
    return {
        name: {key: value for key, value in table.items() if given.get(name, {}).get(key) != value}
        if name in ("algorithm", "steps")
        else table
        for name, table in tables.items()
    }


def with_defaults(tables: Any) -> Any:
    """The tables of a configuration with the defaults that suit what they set.

    Anything but a mapping of mappings is returned as it is: that error is reported elsewhere.
    """
    names = "algorithm", "steps", "estimator", "task", "llm", "log", "privacy"
    if not isinstance(tables, dict):
        return tables
    algorithm, steps, estimator, task, llm, log, privacy = found = [
        tables.get(name, {}) for name in names
    ]
    if not all(isinstance(table, dict) for table in found):
        return tables
    backend = llm.get("backend", "transformers")
    size = MIRROR_STEPS.get(backend) if isinstance(backend, str) else None
    if size is None:
        return tables
    uncalibrated = backend in FUNCTIONS or estimator.get("batch") == 1
    of_steps: dict[str, float] = {}
    of_algorithm: dict[str, Any] = {}
    if steps.get("optimizer", "mirror") == "mirror":
        of_steps = {"p": size, "q": size}
    has_model = estimator.get("name", "additive") == "additive"
    of_task: dict[str, Any] = {"calibration": "none" if uncalibrated else CALIBRATION}
    if privacy.get("noise"):
        of_task["test"] = 0
    # What models know of words would give away the losses of single samples.
    usual = "black_box" if log.get("private") else "model"
    if has_model and algorithm.get("lower_gradient", usual) == "model":
        loss = 1.0 / size
        of_algorithm = {
            "lower_gradient": "model",
            "lower_steps": 10,
            "penalty": loss,
            "robust_weight": 0.01 * loss,
            "dual_bound": 0.01 * loss,
            "plane_threshold": 0.001 * loss,
        }
        of_steps |= {"lam": 0.1 * loss, **({"z": size} if of_steps else {})}
    return {
        **tables,
        "algorithm": {**of_algorithm, **algorithm},
        "steps": {**of_steps, **steps},
        "task": {**of_task, **task},
    }
