"""What an audit can find: the kinds, how bad each is, and one finding of a kind."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["error", "warning"]
Kind = Literal[
    "index",
    "row",
    "video",
    "truncated",
    "video_facts",
    "joints",
    "joints_not_finite",
    "joints_range",
    "lengths",
    "boxes",
    "caption_empty",
    "caption_long",
    "caption_characters",
    "caption_has_label",
    "same_file",
    "same_picture",
    "same_joints",
    "subject_in_splits",
    "class_without_training",
    "no_split",
]

# What each kind means, and whether a clip that has it is of no use (error) or should be looked at (warning).
KINDS: dict[Kind, tuple[Severity, str]] = {
    "index": ("error", "the list of clips itself cannot be read"),
    "row": ("error", "a line of the list, or the file beside a video, is not what it should be"),
    "video": ("error", "a video cannot be opened, or its first, middle or last frame cannot be decoded"),
    "truncated": ("error", "a video holds fewer frames than its header says"),
    "video_facts": ("warning", "length, rate or size in the list are not the video's"),
    "joints": ("error", "joints cannot be read, do not fit their layout, or none is usable"),
    "joints_not_finite": ("warning", "coordinates are NaN or infinite; they are read as missing joints"),
    "joints_range": ("warning", "many joints lie outside the frame, or further away than a camera sees"),
    "lengths": ("error", "joints and video differ in length by more than a tenth"),
    "boxes": ("warning", "boxes are inside out, outside the frame, or leave their person's joints out"),
    "caption_empty": ("warning", "other clips have captions, this one's is empty"),
    "caption_long": ("warning", "a caption is longer than 1,000 characters; the tokenizer cuts it"),
    "caption_characters": ("warning", "a caption has characters that cannot be read, or that the tokenizer lacks"),
    "caption_has_label": ("warning", "captions contain their label, and are not marked as composed"),
    "same_file": ("warning", "two clips are the same bytes"),
    "same_picture": ("warning", "two clips of different splits show nearly the same pictures"),
    "same_joints": ("warning", "two clips have the same joints"),
    "subject_in_splits": ("warning", "a person is in the training split and in another"),
    "class_without_training": ("warning", "a class is tested and never trained on"),
    "no_split": ("warning", "some clips have a split and others have none"),
}
assert set(KINDS) == set(get_args(Kind))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault: its kind, the clips that have it, what is wrong and what to do.

    ``quarantined`` are the clips that pretraining shall leave out because of it.
    """

    kind: Kind
    clip_ids: tuple[str, ...]
    message: str
    fix: str
    quarantined: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return "error" if self.quarantined else KINDS[self.kind][0]

    def to_json(self) -> dict[str, Any]:
        """The finding as it stands in ``audit.json``."""
        lists = {"clip_ids": list(self.clip_ids), "quarantined": list(self.quarantined)}
        return {"severity": self.severity, **asdict(self), **lists}


def of_clip(kind: Kind, clip_id: str, message: str, fix: str) -> Finding:
    """A finding about one clip, which is quarantined if its kind is an error."""
    quarantined = (clip_id,) if KINDS[kind][0] == "error" else ()
    return Finding(kind=kind, clip_ids=(clip_id,), message=message, fix=fix, quarantined=quarantined)
