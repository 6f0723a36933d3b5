"""Clips with the tokens that a run's configuration makes visible and target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from torch import Tensor

from oskar.clip import Clip, ClipBatch, collate_clips
from oskar.config import Config
from oskar.data.people import PeopleWorld, clip_name, generate
from oskar.masking.plan import View, draw_views
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.reporting.exhibit import smaller
from oskar.reporting.figures import picture_figure
from oskar.tokens import token_sources
from oskar.tokens.words import Words

Role = Literal["visible", "target", "dropped"]
ROLES: tuple[Role, ...] = ("dropped", "visible", "target")  # by the codes below
_UNAVAILABLE, _DROPPED, _VISIBLE, _TARGET = -1, 0, 1, 2

_SEED, _STEP = 0, 0
N_CANDIDATES = 16
MAX_PICTURES = 8
_SIDE_POINTS = 160
_PAPER = 236  # what dropped pixels fade to
_NO_PIXELS = "#ececec"  # the same, behind the joints of a recipe without video
_OUTLINE = "#d55e00"
_DOT = "#1f78b4"


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of one modality of the clip."""

    modality: Modality
    n_available: int
    n_visible: int
    n_target: int


@dataclass(frozen=True, slots=True)
class Word:
    """One word piece; ``is_joined`` where it goes on the piece before."""

    text: str
    role: Role
    is_joined: bool


@dataclass(frozen=True, slots=True)
class DrawnView:
    """One (visible, target) pair: pictures as (frame, svg), words, counts."""

    pictures: tuple[tuple[int, str], ...]
    words: tuple[Word, ...]
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class DrawnClip:
    """A clip of ``n_steps`` time steps, of which some are pictured."""

    clip_id: str
    n_steps: int
    views: tuple[DrawnView, ...]


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """Clips drawn together; ``is_of_data`` is False where they are of the built-in people for want of the run's data.

    ``is_searched`` says that the clip is not the first, but the first that tells something.
    """

    clips: tuple[DrawnClip, ...]
    is_of_data: bool
    is_searched: bool = False


@dataclass(frozen=True, slots=True)
class _Planned:
    """Clips with their plan: ``codes[v][m]`` int64 ``[B, N]`` says what each token is in view v."""

    clips: ClipBatch
    codes: tuple[dict[Modality, Tensor], ...]

    @property
    def is_telling(self) -> bool:
        """Whether every modality of a single clip has visible tokens and targets."""
        return all(
            bool((code == kind).any()) for view in self.codes for code in view.values() for kind in (_VISIBLE, _TARGET)
        )

    def row(self, row: int) -> tuple[dict[Modality, Tensor], ...]:
        """Codes ``[N]`` of one clip."""
        return tuple({name: code[row] for name, code in view.items()} for view in self.codes)


def draw_batch(clips: ClipBatch, clip_ids: Sequence[str], config: Config, words: Words | None) -> DrawnBatch:
    """Clips of the run's data with the plan they get as a batch of step 0; the first with the most pictures."""
    planned = _plan(clips, config)
    n_steps = config.tokens.n_frames // config.tokens.tubelet_frames
    drawn = []
    for row, clip_id in enumerate(clip_ids):
        one = clips.rows(torch.tensor([row]))
        n_pictures = MAX_PICTURES if row == 0 else MAX_PICTURES // 2
        views = tuple(
            _draw_view(f"{row}-{v}", codes, one, words, config, n_pictures) for v, codes in enumerate(planned.row(row))
        )
        drawn.append(DrawnClip(clip_id, n_steps, views))
    return DrawnBatch(tuple(drawn), is_of_data=True)


def draw_people(config: Config, words: Words | None) -> DrawnBatch | None:
    """A clip of the built-in people at step 0 of a run; None where a run on text has no words.

    It is the first of ``N_CANDIDATES`` clips whose modalities all have visible tokens and targets,
    which a random allocation does not always give; the first of all where there is none. Its size
    and tokens are the recipe's, its plan a pure function of the configuration and the seed. A
    caption is encoded with the run's own ``words``; without them the clip has no text.
    """
    if config.tokens.modalities == ("text",) and (words is None or config.data.captions == "none"):
        return None
    candidates = (_plan(_clip(index, config, words), config) for index in range(N_CANDIDATES))
    first = _plan(_clip(0, config, words), config)
    index, planned = next(((i, p) for i, p in enumerate(candidates) if p.is_telling), (0, first))
    views = tuple(
        _draw_view(str(v), codes, planned.clips, words, config, MAX_PICTURES) for v, codes in enumerate(planned.row(0))
    )
    n_steps = config.tokens.n_frames // config.tokens.tubelet_frames
    clip = DrawnClip(clip_name(_SEED, index), n_steps, views)
    return DrawnBatch((clip,), is_of_data=False, is_searched=index > 0)


def _plan(clips: ClipBatch, config: Config) -> _Planned:
    specs = modality_specs(config.tokens)
    sources = token_sources(clips, config.tokens)
    views = draw_views(sources, specs, config.masking, seed=config.train.seed, step=_STEP, clip_ids=clips.clip_ids)
    place = {name: m for m, name in enumerate(specs)}
    return _Planned(
        clips, tuple({name: _codes(view, place[name], s.is_valid) for name, s in sources.items()} for view in views)
    )


def _clip(index: int, config: Config, words: Words | None) -> ClipBatch:
    tokens = config.tokens
    n_people = min(max(tokens.n_people, 2), 3)  # the sizes the world has; collating cuts or pads to the recipe's
    world = PeopleWorld(n_frames=tokens.n_frames, resolution=tokens.resolution, n_people=n_people)
    people = generate(world, torch.tensor([index]), _SEED)
    has_text = "text" in tokens.modalities and config.data.captions != "none"
    has_joints = "skeleton" in tokens.modalities
    clip = Clip(
        clip_id=clip_name(_SEED, index),
        frames=people.frames[0] if "video" in tokens.modalities else None,
        joints=people.joints[0] if has_joints else None,
        boxes=people.boxes[0] if has_joints else None,
        word_ids=words.encode(people.captions[0], tokens.n_words) if has_text and words is not None else None,
    )
    return collate_clips([clip], n_words=tokens.n_words, n_people=tokens.n_people)


def _draw_view(
    name: str, codes: dict[Modality, Tensor], clips: ClipBatch, words: Words | None, config: Config, n_pictures: int
) -> DrawnView:
    counts = tuple(
        Count(modality, int((code >= 0).sum()), int((code == _VISIBLE).sum()), int((code == _TARGET).sum()))
        for modality, code in codes.items()
    )
    return DrawnView(_pictures(name, codes, clips, config, n_pictures), _words(codes.get("text"), clips, words), counts)


def _codes(view: View, modality: int, is_valid: Tensor) -> Tensor:
    """What each token of a modality is, int64 ``[B, N]``."""
    codes = torch.where(is_valid, _DROPPED, _UNAVAILABLE)
    for chosen, code in ((view.visible_idx, _VISIBLE), (view.target_idx, _TARGET)):
        clip, slot = (chosen.modality_idx == modality).nonzero(as_tuple=True)
        codes[clip, chosen.token_idx[clip, slot]] = code
    return codes


def _words(codes: Tensor | None, clips: ClipBatch, words: Words | None) -> tuple[Word, ...]:
    if codes is None or clips.word_ids is None or words is None:
        return ()
    ids = clips.word_ids[0].tolist()
    result = []
    for word_id, code in zip(ids, codes.tolist(), strict=True):
        if code == _UNAVAILABLE:
            continue
        piece = str(words.tokenizer.id_to_token(word_id))
        result.append(Word(piece.removeprefix("##"), ROLES[code], piece.startswith("##")))
    return tuple(result)


def _pictures(
    name: str, codes: dict[Modality, Tensor], clips: ClipBatch, config: Config, n_pictures: int
) -> tuple[tuple[int, str], ...]:
    """One picture for each of at most ``n_pictures`` time steps: the first frame of its tubelets."""
    has_video = clips.frames is not None and bool((codes["video"] >= 0).any())
    has_people = clips.joints is not None and bool((codes["skeleton"] >= 0).any())
    if not has_video and not has_people:
        return ()
    tokens = config.tokens
    n_steps, side = tokens.n_frames // tokens.tubelet_frames, tokens.resolution // tokens.patch_size
    shown = np.unique(np.linspace(0, n_steps - 1, min(n_steps, n_pictures)).round().astype(int)).tolist()
    pictures = []
    for step in shown:
        frame = step * tokens.tubelet_frames
        image = cells = places = None
        if clips.frames is not None and has_video:
            image = smaller(clips.frames[0, frame].permute(1, 2, 0).contiguous().numpy())
            cells = codes["video"].view(n_steps, side, side)[step].numpy()
        if clips.joints is not None and has_people:
            of_frame = codes["skeleton"].view(tokens.n_people, -1, N_JOINTS)[:, frame // tokens.segment_frames]
            joints = clips.joints[0, :, frame].flatten(0, 1)
            is_there = joints[:, 2] > 0  # a token may be available for another of its frames
            places = np.concatenate([joints[:, :2], of_frame.reshape(-1, 1)], axis=1)[is_there.numpy()]
        picture = _Picture(image, cells, places)
        svg = picture_figure(_SIDE_POINTS, _SIDE_POINTS, f"clip-{name}-{step}", picture.draw)
        pictures.append((frame, svg))
    return tuple(pictures)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One frame: ``image`` uint8 ``[H, W, 3]``, ``cells`` codes ``[Y, X]``, ``places`` rows of x, y and code."""

    image: npt.NDArray[np.uint8] | None
    cells: npt.NDArray[np.int64] | None
    places: npt.NDArray[np.float32] | None

    def draw(self, axes: Axes) -> None:
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(1.0, 0.0)
        if self.image is None or self.cells is None:
            axes.add_patch(Rectangle((0.0, 0.0), 1.0, 1.0, facecolor=_NO_PIXELS))
        else:
            axes.imshow(
                _faded(self.image, self.cells), extent=(0.0, 1.0, 1.0, 0.0), interpolation="none", aspect="auto"
            )
            _draw_cells(axes, self.cells == _VISIBLE, linewidth=0.8, colour="#111827")
            _draw_cells(axes, self.cells == _TARGET, linewidth=1.0, colour=_OUTLINE, hatch="////")
        if self.places is not None:
            _draw_joints(axes, self.places)


def _faded(image: npt.NDArray[np.uint8], cells: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The image with its dropped tubelets nearly gone and its targets half gone."""
    shares = np.where(cells == _VISIBLE, 1.0, np.where(cells == _TARGET, 0.45, 0.15))
    row, column = (np.arange(n) * of // n for n, of in zip(image.shape, cells.shape, strict=False))
    share = shares[row][:, column, None]
    return np.asarray((image * share + _PAPER * (1.0 - share)).round(), dtype=np.uint8)


def _draw_cells(
    axes: Axes, is_chosen: npt.NDArray[np.bool_], *, linewidth: float, colour: str, hatch: str | None = None
) -> None:
    """Outline cells as one path, so that a page of many tokens stays small."""
    if not is_chosen.any():
        return
    n_rows, n_columns = is_chosen.shape
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    outlines = [
        Outline((square + np.array([column, row])) / (n_columns, n_rows), closed=True)
        for row, column in np.argwhere(is_chosen)
    ]
    axes.add_patch(
        PathPatch(
            Outline.make_compound_path(*outlines), facecolor="none", edgecolor=colour, linewidth=linewidth, hatch=hatch
        )
    )


def _draw_joints(axes: Axes, places: npt.NDArray[np.float32]) -> None:
    x, y, code = places.T
    for role, marker, size, face, edge in (
        (_DROPPED, ".", 4.0, "#6b7280", "#6b7280"),
        (_VISIBLE, "o", 6.0, _DOT, "#ffffff"),
        (_TARGET, "D", 5.5, "#ffffff", _OUTLINE),
    ):
        is_role = code == role
        axes.plot(
            x[is_role], y[is_role], linestyle="", marker=marker, markersize=size,
            markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.0,
        )  # fmt: skip
