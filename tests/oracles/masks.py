"""What a plan must satisfy, clip by clip in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oskar.clip import ClipBatch
from oskar.config import TokensConfig


@dataclass(frozen=True)
class Drawn:
    """One clip's two sets as Python sets of token indices, by modality name."""

    visible: dict[str, set[int]]
    target: dict[str, set[int]]


def joint_cell(x: float, y: float, frame: int, tokens: TokensConfig) -> int:
    """The video token that joint (x, y) of a frame lies in, in float32 as the joints are."""
    side = tokens.resolution // tokens.patch_size
    row = min(int(np.floor(np.float32(side) * np.float32(y))), side - 1)
    column = min(int(np.floor(np.float32(side) * np.float32(x))), side - 1)
    return (frame // tokens.tubelet_frames) * side * side + row * side + column


def available_tokens(clips: ClipBatch, i: int, tokens: TokensConfig) -> dict[str, set[int]]:
    """The tokens clip i really has, read off the batch one by one."""
    side = tokens.resolution // tokens.patch_size
    found: dict[str, set[int]] = {name: set() for name in tokens.modalities}
    if "video" in found and clips.frames is not None and clips.has_video is not None and clips.has_video[i]:
        found["video"] = set(range(tokens.n_frames // tokens.tubelet_frames * side * side))
    if "skeleton" in found and clips.joints is not None and clips.has_skeleton is not None and clips.has_skeleton[i]:
        values = clips.joints[i].reshape(-1, 3).tolist()
        for n, (x, y, confidence) in enumerate(values):
            if confidence >= np.float32(tokens.min_confidence) and 0 <= x < 1 and 0 <= y < 1:
                found["skeleton"].add(n)
    if "text" in found and clips.word_ids is not None:
        found["text"] = {n for n, word in enumerate(clips.word_ids[i].tolist()) if word >= 0}
    return found


def cells_of_joints(clips: ClipBatch, i: int, tokens: TokensConfig) -> list[int]:
    """The cell of every joint of clip i, available or not; none where no clip of the batch has joints."""
    cells: list[int] = []
    for person in [] if clips.joints is None else clips.joints[i].tolist():
        for frame, joints in enumerate(person):
            cells += [joint_cell(x, y, frame, tokens) for x, y, _ in joints]
    return cells


def near_cells(cell: int, radius: int, side: int) -> set[int]:
    """Cells of the same time step at most ``radius`` rows and columns away, inside the grid."""
    step, place = divmod(cell, side * side)
    row, column = divmod(place, side)
    return {
        step * side * side + r * side + c
        for r in range(max(row - radius, 0), min(row + radius, side - 1) + 1)
        for c in range(max(column - radius, 0), min(column + radius, side - 1) + 1)
    }


def exclusivity_violations(drawn: Drawn, cells: Sequence[int], radius: int, side: int) -> tuple[int, int]:
    """(target joints in a visible video cell, target video tokens holding a visible joint)."""
    joints = sum(bool(near_cells(cells[j], radius, side) & drawn.visible["video"]) for j in drawn.target["skeleton"])
    hidden = {cell for j in drawn.visible["skeleton"] for cell in near_cells(cells[j], radius, side)}
    return joints, len(hidden & drawn.target["video"])


def tubes_of(name: str, tokens: TokensConfig, tube_len: int | None, tube_hw: int) -> list[list[int]]:
    """The members of every tube, in time order, listed by nested loops."""
    side, tubes = tokens.resolution // tokens.patch_size, []
    if name == "skeleton":
        length = tube_len or tokens.n_frames
        for person in range(tokens.n_people):
            for joint in range(17):
                for start in range(0, tokens.n_frames, length):
                    frames = range(start, min(start + length, tokens.n_frames))
                    tubes.append([(person * tokens.n_frames + t) * 17 + joint for t in frames])
        return tubes
    n_steps = tokens.n_frames // tokens.tubelet_frames
    length = tube_len or n_steps
    for top in range(0, side, tube_hw):
        for left in range(0, side, tube_hw):
            cells = [
                (y, x) for y in range(top, min(top + tube_hw, side)) for x in range(left, min(left + tube_hw, side))
            ]
            for start in range(0, n_steps, length):
                steps = range(start, min(start + length, n_steps))
                tubes.append([(t * side + y) * side + x for t in steps for y, x in cells])
    return tubes


def partial_tubes(tubes: Sequence[Sequence[int]], available: set[int], chosen: set[int]) -> list[list[bool]]:
    """For each tube that is neither left out nor complete: which of its available tokens were chosen."""
    rows = []
    for tube in tubes:
        members = [token in chosen for token in tube if token in available]
        if any(members) and not all(members):
            rows.append(members)
    return rows


def is_one_run(members: Sequence[bool]) -> bool:
    changes = sum(a != b for a, b in zip([False, *members], [*members, False], strict=True))
    return changes == 2


def largest_remainder(fractions: Sequence[float], n: int) -> list[int]:
    counts = [int(f * n) for f in fractions]
    by_remainder = sorted(range(len(fractions)), key=lambda m: (-(fractions[m] * n - counts[m]), m))
    for m in by_remainder[: n - sum(counts)]:
        counts[m] += 1
    return counts


def allocate(fractions: Sequence[float], n: int, capacities: Sequence[int]) -> list[int]:
    """Share out n tokens; what does not fit goes to those with room, in proportion, until nothing is left."""
    counts = [0] * len(capacities)
    while sum(counts) < min(n, sum(capacities)):
        room = [m for m in range(len(counts)) if counts[m] < capacities[m]]
        total = sum(fractions[m] for m in room)
        shares = largest_remainder([fractions[m] / total for m in room], n - sum(counts))
        for m, share in zip(room, shares, strict=True):
            counts[m] = min(counts[m] + share, capacities[m])
    return counts
