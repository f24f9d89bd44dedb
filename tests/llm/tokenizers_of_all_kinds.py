"""Tokenizers as models have them: small ones, trained on a few words."""

from collections.abc import Callable
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

WORDS = [
    " positive negative neutral good enough bad goodness 1 2 12 is not a film, it is long :) :(.",
    "Review: a good film\nsentiment: positive\n\nReview: long and bad\nsentiment: negative\n\n",
] * 20
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _wrap(tokenizer: Tokenizer, before: str = "", behind: str = "") -> Any:
    parts = [part for part in (before, "$A", behind) if part]
    special = [
        (token, tokenizer.token_to_id(token)) for token in dict.fromkeys((before, behind)) if token
    ]
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=special
        )
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(before: str = "", behind: str = "") -> Any:
    """GPT-2's, with what stands before and behind every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return _wrap(tokenizer, before, behind)


def line_breaks() -> Any:
    """Llama 3's pattern, by which line breaks cling together, and to spaces before them."""
    tokenizer = Tokenizer(models.BPE())
    pattern = (
        r"\p{N}{1,3}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return _wrap(tokenizer, "<s>")


def sentence_piece() -> Any:
    """Llama 2's: a space before every text, and merges across all words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained like this no token has a line break within it, which is a byte then, as in Llama 2.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "removed"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    _train(tokenizer, 500, special_tokens=["<unk>", "<s>", "</s>", *BYTES])
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return _wrap(tokenizer, "<s>")


def unigram() -> Any:
    """XLNet's and T5's: the likeliest pieces of the whole text, and an EOS behind it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
        initial_alphabet=["\n", "A", "B"], show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(WORDS, trainer)
    return _wrap(tokenizer, "", "</s>")


def word_piece() -> Any:
    """BERT's: no spaces at all, one special token on each side."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return _wrap(tokenizer, "<s>", "</s>")


class Letters(PreTrainedTokenizer):
    """A slow tokenizer: pairs of letters, where they are known, from the left."""

    pairs = ("po", "si", "ti", "ve", " p", " n", "ne", "ga", "\n\n", " 1", " g", "oo")

    def __init__(self, **options: Any) -> None:
        single = [chr(code) for code in range(9, 127)]
        self.tokens = ["<s>", "</s>", "<unk>", *self.pairs, *single]
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        found = []
        while text:
            size = 2 if text[:2] in self.pairs else 1
            found.append(text[:size])
            text = text[size:]
        return found

    def _convert_token_to_id(self, token: str) -> int:
        return self.tokens.index(token) if token in self.tokens else 2

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokens[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [0, *token_ids_0, 1]


def _train(tokenizer: Tokenizer, size: int, **options: Any) -> None:
    special = options.pop("special_tokens", ["<unk>", "<s>", "</s>"])
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, **options
    )
    tokenizer.train_from_iterator(WORDS, trainer)


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level with BOS": lambda: byte_level("<s>"),
    "byte level with EOS": lambda: byte_level("", "</s>"),
    "byte level with both": lambda: byte_level("<s>", "</s>"),
    "line breaks that cling": line_breaks,
    "SentencePiece": sentence_piece,
    "unigram with EOS": unigram,
    "WordPiece": word_piece,
    "slow, with both": Letters,
}
