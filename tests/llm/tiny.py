"""Tiny random models, and prompts for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    set_seed,
)

from asyndbt_mpi.llm.base import Prompt

SINGLE = [" good", " bad"]
SEVERAL = [" terrible", " good", " wonderful x"]
NESTED = [" terrible", " good", " good good", " good good bad", " good bad"]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
}


def byte_level_tokenizer() -> Any:
    """A byte-level BPE in which " good", " bad" and "\\n\\n" are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=272,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" good bad\n\n good bad\n\nIt is"] * 8, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrap: Any = PreTrainedTokenizerFast  # its constructor has no types
    return wrap(tokenizer_object=tokenizer, bos_token="<s>")


def save(folder: Path, config: Any, spread: float = 0.0) -> Path:
    """A random model; with a ``spread`` all its matrices have that standard deviation."""
    tokenizer = byte_level_tokenizer()
    config.vocab_size = len(tokenizer)
    set_seed(3)
    any_model: Any = AutoModelForCausalLM  # its methods have no types
    network = any_model.from_config(config)
    for weight in network.parameters():
        if spread and weight.dim() > 1:
            torch.nn.init.normal_(weight, std=spread)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts_of(*groups: tuple[str, Sequence[str]]) -> list[Prompt]:
    return [Prompt(context, query) for context, queries in groups for query in queries]


QUERIES = ["\n\nIt is a film", "\n\nA", "\n\nIt is a much longer sentence, is it not?", "\n\nI do"]
PROMPTS = {
    "one": prompts_of(("", ["Is it good?"])),
    "without contexts": prompts_of(("", ["It is", "It was", "No", "It is not so good"])),
    "nothing in common": prompts_of(("", ["<s>" * 2, "bad", "It is not so good"])),
    "groups": prompts_of(
        ("It is good bad\n\nYes", QUERIES),
        ("A much longer context, " * 4, QUERIES[:3]),
        ("A context about as long, " * 3, QUERIES[::2]),
        ("Ok", QUERIES[1:]),
        ("by itself, but long " * 3, QUERIES[:1]),
        ("another by itself", QUERIES[2:3]),
    ),
    "a query that begins another": prompts_of(("Con", ["", "text", "text and more"])),
}

LONG = prompts_of(
    (
        "It is a film, and a context that is longer than every window: " * 2,
        [f"\n\nIt is number {number}, is it good or bad?" for number in range(20)],
    )
)
"""Side by side they fill more than a row."""

WINDOW: dict[str, Any] = {**SMALL, "sliding_window": 12}
OTHERS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.25),
    "mistral with a window": MistralConfig(**WINDOW),
    "gemma2 with softcaps": Gemma2Config(**WINDOW, final_logit_softcapping=3.0),
    "gemma3 with mixed layers": Gemma3TextConfig(
        **WINDOW, layer_types=["sliding_attention", "full_attention"]
    ),
    "cohere, which scales its logits": CohereConfig(**SMALL, logit_scale=0.3),
    "granite, which divides them": GraniteConfig(**SMALL, logits_scaling=3.0),
}
"""Architectures whose prompts can share a context."""

BLOOM = BloomConfig(hidden_size=32, n_layer=2, n_head=4)
GPT_NEO = GPTNeoConfig(
    hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
)
LONGROPE = Phi3Config(
    **SMALL,
    pad_token_id=0,
    original_max_position_embeddings=64,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    },
)
MAMBA = MambaConfig(hidden_size=32, num_hidden_layers=2)
