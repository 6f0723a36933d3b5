"""The sections on features: components over video and skeleton, and neighbours, each beside random weights."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.reporting.error_map import frame_strip, shown_steps
from oskar.reporting.exhibit import Block, Exhibit, Picture, Strip, Table, cells, png, skeleton_svg, smaller
from oskar.reporting.feature_space import (
    ClipFeatures,
    Components,
    encode_sample,
    expected_share,
    nearest,
    principal_components,
    share_of_same_class,
)
from oskar.reporting.pictured_run import Scene

N_QUERIES, N_NEIGHBOURS = 3, 4
_N_PICTURED = 2  # clips whose components are shown
SEEN: tuple[Modality, ...] = ("video", "skeleton")

BothFeatures = dict[str, ClipFeatures]


def encode_both(scene: Scene) -> dict[Modality, BothFeatures]:
    """Features of the sample by the run's encoders and by those it started from, of each modality that clips have."""
    found: dict[Modality, BothFeatures] = {}
    for modality in modality_specs(scene.config.tokens):
        for name, module in (("run", scene.weights.run), ("random weights", scene.weights.start)):
            features = encode_sample(module.encoder(modality), scene.sample.clips, scene.config, modality)
            if features is not None:
                found.setdefault(modality, {})[name] = features
    return found


def component_exhibit(scene: Scene, features: dict[Modality, BothFeatures]) -> Exhibit:
    """The first three components as red, green and blue, and the first alone in greys."""
    title = "Principal components of features"
    blocks: list[Block] = []
    for modality in SEEN:
        if modality not in features:
            continue
        both = {name: principal_components(part.tokens) for name, part in features[modality].items()}
        rows = features[modality]["run"].rows[: len(both["run"].values)]
        blocks.append(_shares(modality, both, len(rows)))
        for place in _pictured(len(rows)):
            row = int(rows[place])
            strips = _video_strips if modality == "video" else _skeleton_strips
            blocks.append(
                Block(
                    heading=f"{modality.capitalize()} of {scene.sample.clip_ids[row]}",
                    strips=tuple(strips(scene, row, place, both)),
                )
            )
    if not blocks:
        return Exhibit(title, ("No pictured clip has a video or a skeleton.",))
    text = (
        f"Features of the target encoder, over {scene.sample.source}. The mean of each position is taken away first: "
        "otherwise the picture shows where a token lies. Places of one colour have alike features. Signs and colours "
        "mean nothing, and are not the same for the run and for random weights. The first component stands alone in "
        "greys too, for eyes and paper without colour."
    )
    return Exhibit(title, (text,), tuple(blocks))


def neighbour_exhibit(scene: Scene, features: dict[Modality, BothFeatures]) -> Exhibit:
    """Clips and their nearest others, by the run's features and by those of random weights."""
    title = "Nearest neighbours"
    blocks = [_neighbours(scene, modality, both) for modality, both in features.items() if len(both["run"].rows) > 1]
    if not blocks:
        return Exhibit(title, ("Fewer than two of the pictured clips have tokens.",))
    text = (
        f"Among {scene.sample.source}, by the cosine of mean and deviation of a clip's features, standardised over "
        "these clips. The same clips are asked of the run and of random weights."
    )
    return Exhibit(title, (text,), tuple(blocks))


def thumbnail(clips: ClipBatch, row: int, caption: str) -> Picture:
    """The middle frame of a clip, or its people there, or nothing but its caption."""
    if clips.frames is not None and (clips.has_video is None or bool(clips.has_video[row])):
        frame = clips.frames[row, clips.frames.shape[1] // 2]
        return Picture(source=png(smaller(frame.permute(1, 2, 0).contiguous().numpy())), alt=caption, caption=caption)
    if clips.joints is not None and (clips.has_skeleton is None or bool(clips.has_skeleton[row])):
        people = clips.joints[row, :, clips.joints.shape[2] // 2].numpy()
        return Picture(svg=skeleton_svg(list(people)), alt=caption, caption=caption)
    return Picture(svg=skeleton_svg([]), alt=caption, caption=caption)


def _pictured(n: int) -> list[int]:
    chosen: list[int] = np.unique(np.linspace(0, n - 1, min(n, 2 * _N_PICTURED + 1)).round().astype(int)).tolist()
    return chosen[1::2] or chosen


def _shares(modality: Modality, both: dict[str, Components], n_clips: int) -> Block:
    rows = tuple(
        (name, f"{found.position_share:.0%}", *(f"{share:.0%}" for share in found.shares))
        for name, found in both.items()
    )
    head = ("weights", "by position alone", "1st", "2nd", "3rd")[: 2 + len(both["run"].shares)]
    caption = (
        f"{modality.capitalize()}: share of the variance of features ({n_clips} clips) that a token's position "
        "explains, and shares of the rest that the components explain."
    )
    return Block(table=Table(caption, head, rows))


def _as_colours(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Components ``[Y, X, 3]`` as a picture in colour, and the first in greys."""
    is_known = ~np.isnan(values[..., 0])
    pixels = (np.nan_to_num(values) * 255).round().astype(np.uint8)
    padded = np.concatenate([pixels] * 3, axis=2)[..., :3]  # widths below three have fewer components
    return cells(padded, is_known), cells(pixels[..., :1].repeat(3, axis=2), is_known)


def _video_strips(scene: Scene, row: int, place: int, both: dict[str, Components]) -> list[Strip]:
    tokens = scene.config.tokens
    n_steps, side = tokens.n_frames // tokens.tubelet_frames, tokens.resolution // tokens.patch_size
    strips = [frame_strip(scene.sample.clips, row, scene.config)]
    for name, found in both.items():
        grid = found.values[place].reshape(n_steps, side, side, -1)
        pairs = [(step, _as_colours(grid[step])) for step in shown_steps(n_steps)]
        for kind, which in (("three components", 0), ("first component", 1)):
            pictures = (
                Picture(source=png(pair[which]), alt=f"{kind} of {name} at time step {step}") for step, pair in pairs
            )
            strips.append(Strip(f"{name}: {kind}", tuple(pictures)))
    return strips


def _skeleton_strips(scene: Scene, row: int, place: int, both: dict[str, Components]) -> list[Strip]:
    """Of the first person, time down and joints across."""
    strips = []
    for name, found in both.items():
        people = found.values[place].reshape(scene.config.tokens.n_people, -1, N_JOINTS, found.values.shape[-1])
        person = next((p for p in people if not np.isnan(p).all()), people[0])
        colours, greys = _as_colours(person)
        kinds = (("three components", colours), ("first component", greys))
        pictures = tuple(Picture(source=png(pixels), alt=f"{kind} of {name}", caption=kind) for kind, pixels in kinds)
        strips.append(Strip(f"{name} (time down, joints across)", pictures, is_wide=True))
    return strips


def _neighbours(scene: Scene, modality: Modality, both: BothFeatures) -> Block:
    rows = both["run"].rows
    found = {name: nearest(features.pooled, N_NEIGHBOURS) for name, features in both.items()}
    classes: list[object] = [scene.sample.classes[row] for row in rows.tolist()]
    strips: list[Strip] = []
    for query in _queries(len(rows)):
        for name, neighbours in found.items():
            own = _picture(scene, rows, classes, query, query)
            others = (_picture(scene, rows, classes, query, other) for other in neighbours[query].tolist())
            strips.append(Strip(f"{name}: the clip, then its nearest", (own, *others)))
    return Block(heading=modality.capitalize(), strips=tuple(strips), table=_class_table(found, classes))


def _class_table(found: dict[str, Tensor], classes: list[object]) -> Table | None:
    shares = {name: share_of_same_class(neighbours, classes) for name, neighbours in found.items()}
    if None in shares.values():
        return None
    cells_of = tuple("n/a" if share is None else f"{share:.1%}" for share in shares.values())
    n = next(iter(found.values())).shape[1]
    caption = f"Share of the {n} nearest that have the clip's class, over all {len(classes)} clips."
    return Table(caption, ("", *shares, "by chance"), (("same class", *cells_of, f"{expected_share(classes):.1%}"),))


def _queries(n: int) -> list[int]:
    chosen: list[int] = np.unique(np.linspace(0, n - 1, min(n, N_QUERIES + 2)).round().astype(int)).tolist()
    return chosen[1:-1] or chosen


def _picture(scene: Scene, rows: Tensor, classes: list[object], query: int, other: int) -> Picture:
    row = int(rows[other])
    label = scene.sample.labels[row] or scene.sample.clip_ids[row]
    if query == other:
        sign = "the clip: "
    elif classes[query] is None or classes[other] is None:
        sign = ""
    else:
        sign = "✓ " if classes[query] == classes[other] else "✕ "
    return thumbnail(scene.sample.clips, row, f"{sign}{short(label)}")


def short(text: str, n: int = 48) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"
