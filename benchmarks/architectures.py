"""Every causal language model of transformers, tiny and random: packed passes against plain ones.

Example: python benchmarks/architectures.py -o docs/architectures.md

For each architecture a model of a few thousand random weights is made from its configuration, with
a vocabulary of 400 byte pairs, attention windows of 16 tokens, and two to four layers.  It scores
labels of one and of several tokens behind 16 prompts of about 150 tokens, which share a context of
100 and stand side by side in rows of 256: far beyond the windows.  "Packed" is how far the
package's packed passes alone are from one plain pass for each whole text, "given" how far what the
package gives is; both in nats.  The plain passes are those of a network that is loaded
apart, all tokens in, logits of all positions out.
"""

import argparse
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from machine import describe
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import load
from asyndbt_mpi.llm.base import ModelError, Prompt
from asyndbt_mpi.llm.local.labels import label_tree
from asyndbt_mpi.llm.local.packed import PackedReader, Unpackable, attention_windows
from asyndbt_mpi.llm.local.packing import group_by_context
from asyndbt_mpi.llm.transformers import TransformersModel
from asyndbt_mpi.task.dataset import load as load_dataset

SECONDS = 120
"""For one architecture."""
PACKED_TOKENS = 4096
LABELS = [" good", " bad", " entirely another"]
VOCABULARY, WINDOW = 400, 16
SIZES: dict[str, int] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "emb_dim"), 32),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim", "intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 2048),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
}
"""By the names that configurations have for them."""

LATENT: dict[str, Any] = {
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **{"head_dim": 8, "num_key_value_heads": 4},
}
OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "deepseek_v3": LATENT,
    "minicpm3": LATENT,
    "youtu": LATENT,
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "reformer": {"is_decoder": True},
}
"""What some architectures need besides."""


@dataclass(frozen=True)
class Row:
    """One line of the table; differences in nats."""

    kind: str
    network: str
    read: str
    packed: str
    given: str


def tiny(kind: str) -> Any:
    """The configuration of a model of that kind, as small as its parts allow."""
    default = CONFIG_MAPPING[kind]().to_dict()
    return CONFIG_MAPPING[kind](**_shrunk(default) | OWN.get(kind, {}))


def _shrunk(values: dict[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in values.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if name in SIZES and number:
            small[name] = SIZES[name]
        elif isinstance(value, dict) and name.endswith("_config"):
            small[name] = _shrunk(value)
        elif name.endswith("_token_id"):
            small[name] = min(value, 5) if number and value >= 0 else value
    return small


def texts() -> list[str]:
    """The reviews that come with the package."""
    task = load("reviews").task
    return [row.texts["sentence1"] for row in load_dataset(task, ["sentence1"], 0).train]


def byte_pairs() -> Any:
    """A tokenizer of `VOCABULARY` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts(), *LABELS * 50], trainer)
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer)


def make_prompts() -> list[Prompt]:
    """Queries behind one context."""
    reviews = texts()
    shown = "".join(f"Review: {text}\nsentiment: good\n\n" for text in reviews[:3])
    return [Prompt(shown, f"Review: {text}\nsentiment:") for text in reviews[20:36]]


def save(kind: str, tokenizer: Any, folder: Path) -> None:
    """A model of that kind with random weights, large enough to make a difference."""
    any_model: Any = AutoModelForCausalLM
    transformers.set_seed(0)
    network = any_model.from_config(tiny(kind))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() >= 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.25)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def plain(folder: Path, prompts: list[Prompt], tokenizer: Any) -> tuple[str, FloatArray]:
    """Log-probabilities (P, U) by one pass for each whole text."""
    any_model: Any = AutoModelForCausalLM
    network = any_model.from_pretrained(folder, dtype=torch.float32).eval()
    found = np.empty((len(prompts), len(LABELS)))
    for row, prompt in enumerate(prompts):
        text = prompt.context + prompt.query
        before = len(tokenizer(text)["input_ids"])
        for column, label in enumerate(LABELS):
            tokens = tokenizer(text + label)["input_ids"]
            logits = network(torch.tensor([tokens]), use_cache=False).logits[0].double()
            steps = logits.log_softmax(-1)[range(before - 1, len(tokens) - 1), tokens[before:]]
            found[row, column] = float(steps.sum())
    return type(network).__name__, found - np.logaddexp.reduce(found, axis=1, keepdims=True)


def packed_difference(model: TransformersModel, prompts: list[Prompt], expected: FloatArray) -> str:
    """How far the packed passes alone are from ``expected``."""
    network, tokenizer = model._network, model._tokenizer
    try:
        windows = attention_windows(network.config.get_text_config())
        packed = PackedReader(network, windows, torch.float32, torch.device("cpu"))
        sequences = tokenizer([prompt.context + prompt.query for prompt in prompts])["input_ids"]
        tree = label_tree(tokenizer(LABELS)["input_ids"])
        groups = group_by_context([prompt.context for prompt in prompts], sequences)
        steps = packed.read(groups, len(prompts), tree, PACKED_TOKENS).steps
        return f"{np.abs(tree.log_probabilities(steps) - expected).max():.0e}"
    except Unpackable:
        return "not tried"
    except Exception as error:  # whatever a network raises
        return f"fails ({type(error).__name__})"


def examine(kind: str, tokenizer: Any, prompts: list[Prompt]) -> Row:
    """Make, save, load and score a model of that kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(kind, tokenizer, folder)
        network, expected = plain(folder, prompts, tokenizer)
        try:
            model = TransformersModel(str(folder), device="cpu")
            given = model.label_log_probabilities(prompts, LABELS).log_probabilities
        except ModelError as error:
            why = str(error).replace(f"model {str(folder)!r} ({network}) ", "")
            return Row(kind, network, "refused", "", why)
        read = "shared" if model._packed else "by itself"
        packed = packed_difference(model, prompts, expected)
        return Row(kind, network, read, packed, f"{np.abs(given - expected).max():.0e}")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def report(rows: list[Row], unmade: list[str]) -> str:
    """The page of the documentation."""
    counts = Counter(row.read for row in rows)
    lines = [
        "| architecture | network | prompts are read | packed, nats | given, nats |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.kind} | {row.network} | {row.read} | {row.packed} | {row.given} |"
            for row in sorted(rows, key=lambda row: (row.read != "shared", row.read, row.kind))
        ),
    ]
    summary = ", ".join(f"{number} {read}" for read, number in counts.most_common())
    return "\n".join(
        [
            "# Architectures",
            "",
            "How far the scores of tiny random models differ from one plain pass per whole text,",
            "see [method.md](method.md). Made by",
            "`python benchmarks/architectures.py -o docs/architectures.md`, which explains more.",
            "*Shared*: prompts share their contexts. *By itself*: every prompt is read separately,",
            "and a warning says so. *Packed* is the error that shared contexts would have, *given*",
            "the error of the package.",
            "",
            f"{len(rows)} architectures of transformers {transformers.__version__}: {summary}.",
            f"(torch {torch.__version__}, float32; {describe()})",
            "",
            *lines,
            "",
            f"Not tested, because their configurations need more than sizes: {', '.join(unmade)}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Score every architecture of transformers.")
    parser.add_argument("kinds", nargs="*", help="types of model; all of them if none is given")
    parser.add_argument("-o", "--output", type=Path, help="file to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging: Any = transformers.utils.logging  # its functions have no types
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer, prompts = byte_pairs(), make_prompts()
    rows, unmade = [], []
    for kind in arguments.kinds or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            with at_most(SECONDS):
                row = examine(kind, tokenizer, prompts)
        except Exception as error:  # whatever a configuration or a network raises
            print(f"{kind}: not made: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
            unmade.append(kind)
            continue
        print(f"{kind}: {row.network}: {row.read}, packed {row.packed}, given {row.given}")
        rows.append(row)
    table = report(rows, unmade)
    print(table)
    if arguments.output:
        arguments.output.write_text(table)


if __name__ == "__main__":
    main()
