"""WordPiece tokenizers: text to word ids, and learning a vocabulary from captions.

The conventions are those of BERT uncased (A9): lower case, accents stripped, words split at white
space and punctuation, pieces inside a word marked by ``##``, unknown words replaced by ``[UNK]``,
no ``[CLS]`` or ``[SEP]``. Encoding starts no threads, so worker processes may be forked at any time.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, PositiveInt, ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from oskar.errors import InputError
from oskar.tokens.pieces import learn_pieces

UNKNOWN = "[UNK]"


class _Model(BaseModel):
    type: Literal["WordPiece"] = "WordPiece"
    vocab: dict[str, int]
    unk_token: str
    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: PositiveInt = 100


class _Normalizer(BaseModel):
    type: Literal["BertNormalizer"]
    clean_text: bool = True
    handle_chinese_chars: bool = True
    strip_accents: bool | None = None
    lowercase: Literal[True]


class _PreTokenizer(BaseModel):
    type: Literal["BertPreTokenizer"]


class _TokenizerFile(BaseModel):
    """The parts of a ``tokenizer.json`` that decide a word's id; padding, truncation and templates do not."""

    model: _Model
    normalizer: _Normalizer
    pre_tokenizer: _PreTokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A WordPiece tokenizer."""

    tokenizer: Tokenizer

    @property
    def vocabulary_size(self) -> int:
        """How many rows a table of word embeddings needs: the largest id plus 1."""
        return int(max(self.tokenizer.get_vocab().values())) + 1

    def encode(self, text: str, max_words: int) -> Tensor:
        """The first ``max_words`` word ids of a text, int64 ``[n]`` with 1 <= n <= max_words.

        Raises:
            InputError: the text holds no word; a clip without a caption has no text to encode.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:max_words]
        if not ids:
            raise InputError(f"caption {text[:80]!r} holds no word", fix="leave the caption out, or write one")
        return torch.tensor(ids, dtype=torch.int64)

    def unknown(self, text: str) -> list[str]:
        """The words of a text that become ``[UNK]``, each once, in their order."""
        normal = self.tokenizer.normalizer.normalize_str(text)
        said = dict.fromkeys(word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(normal))
        unk = self.tokenizer.model.unk_token
        return [word for word in said if unk in self.tokenizer.encode(word, add_special_tokens=False).tokens]

    def to_json(self) -> str:
        """The text of a ``tokenizer.json``."""
        text: str = self.tokenizer.to_str(pretty=True)
        return text + "\n"

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json``; readers see the old file or the new one, never a part."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def train_words(captions: Iterable[str], vocabulary_size: int) -> Words:
    """Learn a vocabulary of at most ``vocabulary_size`` entries; id 0 is ``[UNK]``.

    The same set of captions gives the same vocabulary in any order and any number of repetitions.

    Raises:
        InputError: no caption holds a word, or ``vocabulary_size`` is below 3.
    """
    normalizer = _Normalizer(type="BertNormalizer", lowercase=True)
    empty = _build(normalizer, _Model(vocab={UNKNOWN: 0}, unk_token=UNKNOWN))
    counts: Counter[str] = Counter()
    for caption in sorted(set(captions)):
        normal = empty.normalizer.normalize_str(caption)
        counts.update(word for word, _ in empty.pre_tokenizer.pre_tokenize_str(normal))
    if not counts:
        raise InputError("no caption to learn words from", fix="give captions, or a tokenizer: data.tokenizer=FILE")
    if vocabulary_size < 3:
        raise InputError(
            f"tokens.vocabulary_size = {vocabulary_size} is too small for a vocabulary", fix="use 3 or more"
        )
    pieces = learn_pieces(counts, vocabulary_size - 1)
    vocabulary = {piece: i for i, piece in enumerate((UNKNOWN, *pieces))}
    return Words(_build(normalizer, _Model(vocab=vocabulary, unk_token=UNKNOWN)))


def load_words(path: Path, *, vocabulary_size: int) -> Words:
    """Read a ``tokenizer.json`` of the ``tokenizers`` library, such as BERT uncased.

    Its padding, truncation and templates are left out: word ids of a text are all that is used.

    Raises:
        InputError: no such file, not a lower-case WordPiece tokenizer, or more entries than ``vocabulary_size``.
    """
    fix = "give a tokenizer.json of BERT uncased, or leave data.tokenizer out to learn one from the captions"
    try:
        parts = _TokenizerFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"tokenizer {path}: cannot be read ({error.strerror})", fix=fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(
            f"tokenizer {path}: not a lower-case WordPiece tokenizer.json ({key}: {first['msg']})", fix=fix
        ) from error
    vocabulary = parts.model.vocab
    if parts.model.unk_token not in vocabulary:
        raise InputError(f"tokenizer {path}: its vocabulary has no {parts.model.unk_token!r}", fix=fix)
    if min(vocabulary.values()) < 0 or len(set(vocabulary.values())) < len(vocabulary):
        raise InputError(f"tokenizer {path}: its vocabulary has ids that are negative or used twice", fix=fix)
    n_entries = max(vocabulary.values()) + 1
    if n_entries > vocabulary_size:
        raise InputError(
            f"tokenizer {path}: has {n_entries} entries, but tokens.vocabulary_size = {vocabulary_size}",
            fix=f"set tokens.vocabulary_size={n_entries}, or use a smaller tokenizer",
        )
    return Words(_build(parts.normalizer, parts.model))


def _build(normalizer: _Normalizer, model: _Model) -> Tokenizer:
    tokenizer = Tokenizer(
        WordPiece(
            model.vocab,
            unk_token=model.unk_token,
            continuing_subword_prefix=model.continuing_subword_prefix,
            max_input_chars_per_word=model.max_input_chars_per_word,
        )
    )
    tokenizer.normalizer = BertNormalizer(
        clean_text=normalizer.clean_text,
        handle_chinese_chars=normalizer.handle_chinese_chars,
        strip_accents=normalizer.strip_accents,
        lowercase=normalizer.lowercase,
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer
