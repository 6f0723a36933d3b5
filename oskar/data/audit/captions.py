"""Captions: empty, overlong, unreadable, unknown to a tokenizer, or giving the label away."""

import re
import unicodedata
from collections.abc import Sequence

from oskar.data.audit.findings import Finding, Kind
from oskar.data.rows import Row
from oskar.tokens.words import Words

MOST_CHARACTERS = 1000
_UNREADABLE = frozenset({"Cc", "Cn", "Co", "Cs"})  # control, unassigned, private and half characters
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def audit_captions(rows: Sequence[Row], empty: Sequence[str], words: Words | None) -> list[Finding]:
    """What is wrong with the captions of a data set; ``words`` says which characters its tokenizer knows."""
    listed = [(row, row.caption) for row in rows if row.caption is not None]
    long = [row.clip_id for row, caption in listed if len(caption) > MOST_CHARACTERS]
    odd = {row.clip_id: problem for row, caption in listed if (problem := _odd_characters(caption, words)) is not None}
    leaking = [row.clip_id for row, caption in listed if not row.is_caption_composed and has_label(caption, row.label)]
    n = len(listed)
    found = [
        _finding(
            "caption_empty",
            empty,
            f"{len(empty)} clips have no caption, {n} have one",
            "fill them in, or leave the column out",
        ),
        _finding(
            "caption_long",
            long,
            f"{len(long)} of {n} captions are longer than {MOST_CHARACTERS} characters",
            "shorten them",
        ),
        _finding(
            "caption_has_label",
            leaking,
            f"{len(leaking)} of {n} captions contain their label",
            'write "composed" into caption_source where captions were made from labels; expect retrieval and '
            "answers to be easier than they are where they were not",
        ),
    ]
    for clip_id, problem in odd.items():
        found.append(
            _finding(
                "caption_characters", [clip_id], f"clip {clip_id}: the caption has {problem}", "save it as UTF-8 text"
            )
        )
    return [finding for finding in found if finding.clip_ids]


def has_label(caption: str, label: str | None) -> bool:
    """Whether all words of a label, whole and in their order, stand in a caption one after the other."""
    if label is None:
        return False
    wanted, said = _words(label), _words(caption)
    if not wanted or wanted == [str(number) for number in wanted if str(number).isdigit()]:
        return False
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def _words(text: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # labels are often written in CamelCase
    return re.findall(r"[^\W_]+", spaced.lower())


def _odd_characters(caption: str, words: Words | None) -> str | None:
    unreadable = sorted(
        {c for c in caption if c == _REPLACEMENT or (unicodedata.category(c) in _UNREADABLE and c not in "\n\r\t")}
    )
    if unreadable:
        return f"unreadable characters ({', '.join(ascii(c) for c in unreadable[:5])})"
    if words is not None:
        unknown = words.unknown(caption)
        if unknown:
            return f"words that the tokenizer does not know ({', '.join(unknown[:5])})"
    return None


def _finding(kind: Kind, clip_ids: Sequence[str], message: str, fix: str) -> Finding:
    return Finding(kind=kind, clip_ids=tuple(clip_ids), message=message, fix=fix)
