"""One clip: its video, joints, boxes and their lengths, from the files themselves."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from oskar.data.audit.findings import Finding, of_clip
from oskar.data.decoding import VideoError, VideoInfo, probe, read_frames
from oskar.data.joint_arrays import load_arrays
from oskar.data.placement import SkeletonSequence
from oskar.data.rows import Row
from oskar.data.skeletons import PackedSkeletons, folder_layout, read_joints_file
from oskar.errors import InputError

LENGTH_TOLERANCE_SHARE = 0.1  # as the reader's: more, and joints and video do not belong together
LEAST_HELD_SHARE = 0.9  # of the frames that a header promises; rates are rounded, so a little may lack
MOST_OUTSIDE_SHARE = 0.5  # of the usable 2-D joints
FARTHEST_METRES = 20.0
THUMBNAIL = 12  # pixels a side: enough to tell scenes apart, too few to tell codecs apart
_TIME_BASE = 1_000_000  # a container's duration counts microseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipAudit:
    """What one clip is and what is wrong with it.

    ``facts`` holds numbers and texts for ``audit.json``. ``file_sha256`` is that of the video,
    ``joints_sha256`` of the positions. ``thumbnail`` is the first, middle and last frame, small and grey.
    """

    clip_id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    file_sha256: str | None = None
    joints_sha256: str | None = None
    thumbnail: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, for the record of what was checked."""
        return asdict(self) | {"thumbnail": None if self.thumbnail is None else self.thumbnail.hex()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ClipAudit":
        """The audit that ``to_json`` was made of."""
        findings = tuple(
            Finding(**(one | {"clip_ids": tuple(one["clip_ids"]), "quarantined": tuple(one["quarantined"])}))
            for one in values["findings"]
        )
        thumbnail = values["thumbnail"]
        return cls(
            **values | {"findings": findings, "thumbnail": None if thumbnail is None else bytes.fromhex(thumbnail)}
        )


def audit_clip(folder: Path, row: Row) -> ClipAudit:
    """Open every file of a clip; nothing that is wrong with it raises."""
    facts: dict[str, Any] = {}
    found: list[Finding] = []
    info, thumbnail, digest = None, None, None
    if row.video_path is not None:
        info, thumbnail, digest = _video(row, row.video_path, facts, found)
    sequence = _joints(folder, row, info, facts, found)
    if sequence is not None:
        _range(row, sequence, facts, found)
        _boxes(row, sequence, found)
    if sequence is not None and info is not None:
        _lengths(row, info.n_frames, sequence.n_frames, found)
    return ClipAudit(
        clip_id=row.clip_id,
        facts=facts,
        findings=tuple(found),
        file_sha256=digest,
        joints_sha256=None if sequence is None else _content(sequence),
        thumbnail=thumbnail,
    )


def _video(
    row: Row, path: Path, facts: dict[str, Any], found: list[Finding]
) -> tuple[VideoInfo | None, bytes | None, str | None]:
    """Count, measure and decode a video at three places."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        found.append(
            of_clip("video", row.clip_id, f"{path}: cannot be read ({error.strerror})", "check its permissions")
        )
        return None, None, None
    try:
        info = probe(path)
        frames = read_frames(path, [0, info.n_frames // 2, info.n_frames - 1], short_side=THUMBNAIL)
    except VideoError as error:
        found.append(of_clip("video", row.clip_id, error.what, error.fix))
        return None, None, None  # what cannot be shown is not worth being called a copy
    facts |= {
        "n_frames": info.n_frames,
        "fps": round(info.fps, 3),
        "width": info.width,
        "height": info.height,
        "duration_seconds": round(info.duration_seconds, 3),
        "codec": info.codec,
        "rotation_degrees": info.rotation_degrees,
        "bytes": os.path.getsize(path),
    }
    promised = _promised_frames(path, info)
    if promised is not None and info.n_frames < LEAST_HELD_SHARE * promised - 1:
        found.append(
            of_clip(
                "truncated",
                row.clip_id,
                f"{path}: holds {info.n_frames} frames, its header promises {promised:.0f}",
                "copy or download the file again",
            )
        )
    _against_list(row, info, found)
    grey = frames.float().mean(dim=1, keepdim=True)
    small = torch.nn.functional.interpolate(grey, size=(THUMBNAIL, THUMBNAIL), mode="area")
    return info, small.round().to(torch.uint8).numpy().tobytes(), digest


def _promised_frames(path: Path, info: VideoInfo) -> float | None:
    """Frames by the duration that the container's header states, None where it states none."""
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        stream = container.streams.video[0]
        if stream.frames > 0 and container.format.name == "avi":
            return float(stream.frames)
        if container.duration is None:
            return None
        return container.duration / _TIME_BASE * info.fps


def _against_list(row: Row, info: VideoInfo, found: list[Finding]) -> None:
    """What the list says of a video against what the file holds."""
    differ = []
    if row.n_frames is not None and abs(row.n_frames - info.n_frames) > max(2, LENGTH_TOLERANCE_SHARE * info.n_frames):
        differ.append(f"n_frames = {row.n_frames}, the file has {info.n_frames}")
    if row.fps is not None and abs(row.fps - info.fps) > 0.1 * info.fps:
        differ.append(f"fps = {row.fps:g}, the file has {info.fps:g}")
    # Joints in pixels may refer to a larger original: only the shape of the frame must agree.
    if row.width and row.height and abs(row.width / row.height * info.height / info.width - 1) > 0.1:
        differ.append(f"size = {row.width} x {row.height}, the file has {info.width} x {info.height}")
    if differ:
        found.append(
            of_clip(
                "video_facts", row.clip_id, f"{row.video_path}: {'; '.join(differ)}", "correct the list, or the file"
            )
        )


@cache
def _packed(folder: Path) -> PackedSkeletons:
    return PackedSkeletons(folder)


def _joints(
    folder: Path, row: Row, info: VideoInfo | None, facts: dict[str, Any], found: list[Finding]
) -> SkeletonSequence | None:
    """The skeletons of a clip as the reader would read them, None without any."""
    if not row.has_joints:
        return None
    size = (row.width, row.height) if row.width and row.height else None
    if size is None and row.video_path is not None:
        if info is None:
            return None  # pixels of a frame that nobody knows: the video's own finding says why
        size = (info.width, info.height)
    try:
        if row.packed_rows is not None:
            sequence: SkeletonSequence | None = _packed(folder).sequence(*row.packed_rows, size)
        elif row.joints_path is not None:
            layout, is_2d = folder_layout(folder), row.video_path is not None
            sequence = read_joints_file(row.joints_path, frame_size=size, layout=layout, prefer_2d=is_2d)
            _finite(row, row.joints_path, found)
        else:
            return None
    except InputError as error:
        found.append(of_clip("joints", row.clip_id, error.what, error.fix))
        return None
    if sequence is None:
        found.append(
            of_clip("joints", row.clip_id, f"{row.joints_path}: holds no joints", "write has_joints = 0 in the list")
        )
        return None
    usable = sequence.confidence > 0
    facts |= {
        "n_joint_frames": sequence.n_frames,
        "n_people": sequence.positions.shape[0],
        "usable_joint_share": round(float(usable.float().mean()), 4),
    }
    return sequence


def _finite(row: Row, path: Path, found: list[Finding]) -> None:
    if path.suffix.lower() != ".npz":
        return
    for name, values in load_arrays(path).items():
        if values.dtype.kind == "f" and name != "boxes":  # an unknown box is NaN
            share = float(np.mean(~np.isfinite(values)))
            if share > 0:
                text = f"{path}: {name} has {share:.2%} values that are NaN or infinite"
                found.append(
                    of_clip("joints_not_finite", row.clip_id, text, "write 0 for every coordinate of a missing joint")
                )


def _range(row: Row, sequence: SkeletonSequence, facts: dict[str, Any], found: list[Finding]) -> None:
    usable = sequence.positions[sequence.confidence > 0]
    source = row.joints_path or f"clip {row.clip_id}"
    if usable.shape[-1] == 2:
        is_outside = ((usable < 0) | (usable >= 1)).any(dim=-1)
        share = float(is_outside.float().mean())
        facts["outside_joint_share"] = round(share, 4)
        if row.video_path is not None and share > MOST_OUTSIDE_SHARE:
            text = f"{source}: {share:.0%} of the joints lie outside the frame"
            found.append(of_clip("joints_range", row.clip_id, text, "check width and height, and the joints' units"))
    elif float(usable.abs().max()) > FARTHEST_METRES:
        text = f"{source}: joints up to {float(usable.abs().max()):.1f} m from the camera"
        found.append(of_clip("joints_range", row.clip_id, text, "store metres, or say the units in the file"))


def _boxes(row: Row, sequence: SkeletonSequence, found: list[Finding]) -> None:
    if sequence.boxes is None:
        return
    source = row.joints_path or f"clip {row.clip_id}"
    known = sequence.boxes.isfinite().all(dim=-1) & (sequence.boxes != 0).any(dim=-1)
    boxes = sequence.boxes[known]
    is_inside_out = (boxes[:, 2:] <= boxes[:, :2]).any(dim=-1)
    is_outside = (boxes[:, :2] >= 1).any(dim=-1) | (boxes[:, 2:] <= 0).any(dim=-1)
    problems = []
    if bool(is_inside_out.any()):
        problems.append(f"{int(is_inside_out.sum())} of {len(boxes)} end before they begin")
    if bool(is_outside.any()):
        problems.append(f"{int(is_outside.sum())} of {len(boxes)} lie outside the frame")
    usable = (sequence.confidence > 0) & known[..., None]
    if not problems and sequence.positions.shape[-1] == 2 and bool(usable.any()):
        low, high = sequence.boxes[..., None, :2], sequence.boxes[..., None, 2:]
        margin = 0.1 * (high - low)
        is_in = ((sequence.positions >= low - margin) & (sequence.positions <= high + margin)).all(dim=-1)
        share = float(is_in[usable].float().mean())
        if share < 0.5:
            problems.append(f"{share:.0%} of the joints lie in their person's box")
    if problems:
        fix = "store x1, y1, x2, y2 in the units of the joints, NaN where unknown"
        found.append(of_clip("boxes", row.clip_id, f"{source}: boxes: {'; '.join(problems)}", fix))


def _lengths(row: Row, n_video: int, n_joints: int, found: list[Finding]) -> None:
    if abs(n_video - n_joints) > max(2, LENGTH_TOLERANCE_SHARE * n_video):
        source = row.joints_path or f"clip {row.clip_id}"
        text = f"{source}: {n_joints} frames of joints for {n_video} frames of {row.video_path}"
        found.append(of_clip("lengths", row.clip_id, text, "give one row of joints per frame of the video"))


def _content(sequence: SkeletonSequence) -> str:
    values = torch.where((sequence.confidence > 0)[..., None], sequence.positions, 0.0)
    return hashlib.sha256(np.round(values.numpy(), 5).tobytes()).hexdigest()
