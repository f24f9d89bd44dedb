import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    Qwen2Config,
)

from asyndbt_mpi.doctor.findings import Level
from asyndbt_mpi.doctor.model import find_model
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.checkpoint import check
from asyndbt_mpi.llm.local import weights
from asyndbt_mpi.llm.transformers import TransformersModel
from tests.llm.tiny import SMALL, byte_level_tokenizer, save

Damage = Callable[[Path], None]
FILE = "model.safetensors"
LAYERS = {**SMALL, "num_hidden_layers": 3}


def renamed(change: Callable[[str], str]) -> Damage:
    def damage(folder: Path) -> None:
        saved = {change(key): value for key, value in load_file(folder / FILE).items()}
        save_file(saved, folder / FILE, {"format": "pt"})

    return damage


def without(part: str) -> Damage:
    def damage(folder: Path) -> None:
        saved = {key: value for key, value in load_file(folder / FILE).items() if part not in key}
        save_file(saved, folder / FILE, {"format": "pt"})

    return damage


def with_another(name: str) -> Damage:
    def damage(folder: Path) -> None:
        saved = load_file(folder / FILE) | {name: torch.zeros(2, 2)}
        save_file(saved, folder / FILE, {"format": "pt"})

    return damage


def saved_as(make: Any, config: Any) -> Damage:
    def damage(folder: Path) -> None:
        tokenizer = byte_level_tokenizer()
        shutil.rmtree(folder)
        config.vocab_size = len(tokenizer)
        make(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return damage


def set_in_configuration(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def halved_output_layer(folder: Path) -> None:
    saved = load_file(folder / FILE)
    saved["lm_head.weight"] = saved["lm_head.weight"][:50].clone()
    save_file(saved, folder / FILE, {"format": "pt"})


def lost_shard(folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder)
    (folder / FILE).unlink()
    network.save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def shards_of_another(folder: Path) -> None:
    (folder / f"{FILE}.index.json").write_text("{}")


def packed_numbers(folder: Path) -> None:
    saved = load_file(folder / FILE)
    name = "model.layers.0.mlp.up_proj.weight"
    saved[name] = (saved[name] * 100).to(torch.int8)
    save_file(saved, folder / FILE, {"format": "pt"})


def cut_off(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: len(content) // 2])


TIED: dict[str, Any] = {**SMALL, "tie_word_embeddings": True}
DAMAGES: dict[str, tuple[Damage, str]] = {
    "torch.compile": (renamed("_orig_mod.{}".format), r"the names of torch\.compile \(_orig_mod"),
    "DDP": (
        renamed("module.{}".format),
        r"the names of DistributedDataParallel \(module\.lm_head",
    ),
    "PEFT": (renamed("base_model.model.{}".format), r"the names of PEFT .* merge_and_unload"),
    "own prefix": (renamed("wrapped.{}".format), r"no weights for lm_head\.weight, model\.embed"),
    "no output layer": (without("lm_head"), r"no weights for lm_head\.weight: download"),
    "missing layer": (without("layers.1."), r"no weights for model\.layers\.1\..* and 6 more"),
    "one missing": (without("layers.1.mlp.up"), r"no weights for model\.layers\.1\.mlp\.up_proj"),
    "a layer too many": (
        set_in_configuration(num_hidden_layers=1),
        r"the model does not use: model\.layers\.1\.",
    ),
    "a value head": (with_another("v_head.weight"), r"the model does not use: v_head\.weight"),
    "a different shape": (halved_output_layer, r"a different shape for lm_head\.weight"),
    "classifier": (
        saved_as(AutoModelForSequenceClassification.from_config, LlamaConfig(**SMALL)),
        "saved as LlamaForSequenceClassification, which is not a causal language model",
    ),
    "classifier with tied weights": (
        saved_as(AutoModelForSequenceClassification.from_config, Qwen2Config(**TIED)),
        "saved as Qwen2ForSequenceClassification",
    ),
    "no head": (saved_as(AutoModel.from_config, LlamaConfig(**SMALL)), "saved as LlamaModel"),
    "no head, tied": (saved_as(AutoModel.from_config, LlamaConfig(**TIED)), "saved as LlamaModel"),
    "encoder": (
        saved_as(
            BertForMaskedLM,
            BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4),
        ),
        "saved as BertForMaskedLM",
    ),
    "adapter beside": (adapter_beside, r"a PEFT adapter beside its weights: merge it"),
    "two sets of weights": (shards_of_another, "both model.safetensors and shards of a different"),
    "packed numbers": (
        packed_numbers,
        r"up_proj\.weight in model\.safetensors has numbers of type I8",
    ),
    "lost shard": (lost_shard, "cannot be loaded"),
    "cut off": (cut_off, "cannot be loaded"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole"), LlamaConfig(**LAYERS | {"num_hidden_layers": 2}))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_leaves_a_weight_unset_or_unused_is_refused(
    folder: Path, damage: Damage, message: str
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        TransformersModel(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    [found] = find_model(Llm(model=str(folder)))
    assert found.level is Level.PROBLEM
    assert str(caught.value) in str(found)


def test_an_encoder_that_hides_what_it_was_is_refused_for_what_it_does(folder: Path) -> None:
    encoder = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.5
    )
    saved_as(BertForMaskedLM, encoder)(folder)
    set_in_configuration(architectures=None)(folder)
    with pytest.raises(ModelError, match="its output for a token depends on later tokens"):
        TransformersModel(str(folder), device="cpu")


def test_a_tied_model_needs_no_output_layer(tmp_path: Path) -> None:
    TransformersModel(str(save(tmp_path, LlamaConfig(**TIED))), device="cpu")


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    model = TransformersModel(str(folder), device="cpu")
    model._tokens.encode = lambda texts: [[3, 500] for _ in texts]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="returns number 500: they do not belong together"):
        model._tokenise(["any text"], 0, "label")


# ---------------------------------------------------------------- the digest


def digest(folder: Path, **options: Any) -> str:
    return TransformersModel(str(folder), device="cpu", **options).digest


def test_equal_models_have_equal_digests_wherever_they_are(whole: Path, folder: Path) -> None:
    assert digest(whole) == digest(folder)
    assert len(digest(whole)) == 32
    (folder / "config.json").write_text(
        (folder / "config.json")
        .read_text()
        .replace('"transformers_version": "', '"transformers_version": "0.')
    )
    assert digest(whole) == digest(folder)


def changed_weight(folder: Path) -> None:
    """Another training run: all numbers of one small weight differ a little."""
    saved = load_file(folder / FILE)
    saved["model.layers.1.mlp.up_proj.weight"] *= 1.0001
    save_file(saved, folder / FILE, {"format": "pt"})


def other_tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"].pop()
    file.write_text(json.dumps(content))


def test_buffers_count_too() -> None:
    network = torch.nn.Module()
    network.register_buffer("bias", torch.zeros(3))
    network.config = LlamaConfig()  # type: ignore[assignment]
    tokenizer = byte_level_tokenizer()
    before = weights.digest(network, tokenizer)
    assert before == weights.digest(network, tokenizer)
    network.bias += 1  # type: ignore[operator]
    assert before != weights.digest(network, tokenizer)


def test_large_weights_are_told_by_their_last_numbers_too() -> None:
    network = torch.nn.Linear(300, 301)
    network.config = LlamaConfig()  # type: ignore[assignment]
    tokenizer = byte_level_tokenizer()
    before = weights.digest(network, tokenizer)
    with torch.no_grad():
        network.weight[-1, -1] += 1
    assert before != weights.digest(network, tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        other_tokens,
        set_in_configuration(rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
        set_in_configuration(rms_norm_eps=0.1),
    ],
    ids=["weights", "tokenizer", "rope", "norm"],
)
def test_other_models_have_other_digests(whole: Path, folder: Path, change: Damage) -> None:
    change(folder)
    assert digest(whole) != digest(folder)
    assert digest(whole) != digest(whole, precision="bfloat16")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    for ask in (lambda: TransformersModel(str(folder), device="cpu"), lambda: check(str(folder))):
        with pytest.raises(ModelError, match=r"no tokenizer in the folder: copy tokenizer\.json"):
            ask()
