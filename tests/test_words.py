"""The WordPiece tokenizer: learnt the same every time, read back exactly, strict about its files."""

import csv
import json
import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordPieceTrainer

from oskar.errors import InputError
from oskar.tokens.pieces import MAX_ALPHABET, learn_pieces
from oskar.tokens.words import Words, load_words, train_words

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
CAPTIONS = ["A woman is combing her hair.", "a man throws a ball", "the man catches the ball", "running, then sitting"]


def vocabulary(words: Words) -> dict[str, int]:
    return dict(words.tokenizer.get_vocab())


def pieces_by_recounting(counts: dict[str, int], n_pieces: int) -> list[str]:
    """The definition, word for word: recount every pair after every merge."""
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*letters, *("##" + letter for letter in letters)]
    words = {word: [word[0], *("##" + letter for letter in word[1:])] for word in counts}
    while len(pieces) < n_pieces:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for i in range(len(parts) - 1):
                pairs[parts[i], parts[i + 1]] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = best[0] + best[1][2:]
        for word, parts in words.items():
            text = " ".join(parts) + " "
            tail = f"{best[0]} {best[1]} "
            while text.startswith(tail) or f" {tail}" in text:
                at = 0 if text.startswith(tail) else text.index(f" {tail}") + 1
                text = text[:at] + merged + " " + text[at + len(tail) :]
            words[word] = text.split()
        if merged not in pieces:
            pieces.append(merged)
    return pieces


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=7), st.integers(1, 9), min_size=1, max_size=8),
    st.integers(6, 40),
)
def test_pieces_are_those_of_recounting(counts: dict[str, int], n_pieces: int) -> None:
    assert learn_pieces(counts, n_pieces) == pieces_by_recounting(counts, n_pieces)


def test_pieces_are_those_of_the_library_where_no_counts_tie() -> None:
    generator = torch.Generator().manual_seed(0)
    words = [a + b + c + d for a in "ab" for b in "ab" for c in ("a", "b", "") for d in ("a", "")]
    counts = {word: int(torch.randint(100, 3000, (), generator=generator)) for word in dict.fromkeys(words)}
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = WordPieceTrainer(vocab_size=1 + 12, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([" ".join([word] * count) for word, count in counts.items()], trainer)
    assert set(learn_pieces(counts, 12)) == set(tokenizer.get_vocab()) - {"[UNK]"}


def test_most_frequent_letters_are_kept_where_not_all_fit() -> None:
    pieces = learn_pieces({"ab": 5, "ba": 5, "cc": 1}, 5)
    assert pieces == ["a", "b", "##a", "##b", "ab"]
    many = {chr(0x4E00 + i): 1 for i in range(MAX_ALPHABET + 7)}
    assert len(learn_pieces(many, 5000)) == 2 * MAX_ALPHABET


def test_order_and_repetition_do_not_matter() -> None:
    first = train_words(CAPTIONS, 60)
    second = train_words([*reversed(CAPTIONS), CAPTIONS[1], CAPTIONS[1]], 60)
    assert first.tokenizer.to_str() == second.tokenizer.to_str()
    assert first.vocabulary_size == 60
    assert vocabulary(first)["[UNK]"] == 0


def test_known_words_by_hand() -> None:
    words = train_words(["aa aa aa", "aa ab"], 7)
    # letters a, b and their inner forms; then a+##a, which stands in "aa" twice against "ab" once; then a+##b
    assert vocabulary(words) == {"[UNK]": 0, "a": 1, "b": 2, "##a": 3, "##b": 4, "aa": 5, "ab": 6}
    assert words.encode("AB bab Áa! x", 10).tolist() == [6, 2, 3, 4, 5, 0, 0]
    assert words.encode("ab", 10).dtype == torch.int64


def test_long_captions_are_cut() -> None:
    words = train_words(CAPTIONS, 100)
    caption = "the man " * 1250
    ids = words.encode(caption, 256)
    assert len(caption) == 10_000
    assert ids.shape == (256,)
    assert torch.equal(ids[:2], words.encode("the man", 256)[:2])
    assert words.encode("a" * 10_000, 256).tolist() == [0]  # one word that long is unknown


@pytest.mark.parametrize("text", ["", "   \n\t", "\u200b\x07"])
def test_empty_captions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="holds no word"):
        train_words(CAPTIONS, 100).encode(text, 256)
    with pytest.raises(InputError, match="no caption"):
        train_words([text], 100)


def test_no_vocabulary_is_too_small_to_say_so() -> None:
    with pytest.raises(InputError, match=r"tokens\.vocabulary_size = 2"):
        train_words(CAPTIONS, 2)
    assert train_words(CAPTIONS, 3).vocabulary_size == 3


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(1, 40))
def test_any_text_encodes_within_bounds(text: str, max_words: int) -> None:
    words = train_words(CAPTIONS, 60)
    ids = words.encode("a " + text, max_words)
    assert 1 <= len(ids) <= max_words
    assert int(ids.min()) >= 0
    assert int(ids.max()) < words.vocabulary_size


def test_saved_words_read_back_the_same(tmp_path: Path) -> None:
    words = train_words(CAPTIONS, 80)
    path = tmp_path / "tokenizer.json"
    path.write_text("old")
    words.save(path)
    loaded = load_words(path, vocabulary_size=80)
    assert loaded.tokenizer.to_str() == words.tokenizer.to_str()
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert Tokenizer.from_file(str(path)).encode("the man").ids == words.encode("the man", 9).tolist()
    assert torch.equal(pickle.loads(pickle.dumps(words)).encode("the man", 9), words.encode("the man", 9))  # noqa: S301


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        train_words(CAPTIONS, 80).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert path.read_text() == "old"


def test_templates_padding_and_truncation_of_a_file_are_left_out(tmp_path: Path) -> None:
    bert = Tokenizer.from_str(train_words(CAPTIONS, 80).tokenizer.to_str())
    bert.add_special_tokens(["[UNK]"])
    bert.enable_padding(length=32)
    bert.enable_truncation(1)
    path = tmp_path / "tokenizer.json"
    bert.save(str(path))
    expected = train_words(CAPTIONS, 80).encode("the man", 9)
    assert torch.equal(load_words(path, vocabulary_size=80).encode("the man", 9), expected)


def test_larger_vocabulary_than_the_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    train_words(CAPTIONS, 60).save(path)
    with pytest.raises(InputError, match=r"has 60 entries, but tokens\.vocabulary_size = 59"):
        load_words(path, vocabulary_size=59)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model", "type"), "BPE", "model.type"),
        (("model", "vocab"), {"a": 0}, r"no '\[UNK\]'"),
        (("model", "vocab"), {"[UNK]": 0, "a": 0}, "used twice"),
        (("model", "vocab"), {"[UNK]": -1}, "negative"),
        (("model", "vocab"), {"[UNK]": "zero"}, "model.vocab"),
        (("model", "max_input_chars_per_word"), 0, "max_input"),
        (("normalizer", "lowercase"), False, "normalizer.lowercase"),
        (("normalizer", "type"), "NFC", "normalizer.type"),
        (("pre_tokenizer",), None, "pre_tokenizer"),
    ],
)
def test_other_tokenizers_are_refused(tmp_path: Path, keys: tuple[str, ...], value: object, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    content = json.loads(train_words(CAPTIONS, 80).tokenizer.to_str())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_words(path, vocabulary_size=80)


@pytest.mark.parametrize("content", [b"", b"not json", b"[1, 2]", b"\xff\xfe{", b'{"model": {}}'])
def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a lower-case WordPiece"):
        load_words(path, vocabulary_size=80)
    with pytest.raises(InputError, match="cannot be read"):
        load_words(tmp_path / "absent.json", vocabulary_size=80)
    with pytest.raises(InputError, match="cannot be read"):
        load_words(tmp_path, vocabulary_size=80)


def _encode_to(words: Words, results: "multiprocessing.SimpleQueue[list[int]]") -> None:
    results.put(words.encode("the man", 9).tolist())


def test_forked_workers_encode_after_training(capfd: pytest.CaptureFixture[str]) -> None:
    words = train_words(CAPTIONS, 80)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_encode_to, args=(words, results))
    process.start()
    process.join(10)
    assert process.exitcode == 0
    assert results.get() == words.encode("the man", 9).tolist()
    assert capfd.readouterr().err == ""


def test_real_sentences_have_few_unknown_words() -> None:
    path = DATA_DIR / "jhmdb_masks" / "index.csv"
    if not path.is_file():
        pytest.skip("real data not there: jhmdb_masks")
    with path.open(encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    words = train_words(captions, 400)
    assert words.vocabulary_size == 400
    ids = torch.cat([words.encode(caption, 256) for caption in captions])
    assert not (ids == 0).any()
