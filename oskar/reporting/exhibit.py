"""What a section of pictures consists of, and how pixels and joints become pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from oskar.tokens.layouts import INTERNAL

_PNG_URI, _PNG_SIGNATURE = "data:image/png;base64,", b"\x89PNG\r\n\x1a\n"
MOST_FILE_BYTES = 500_000
LARGEST_SIDE = 128  # pixels of a picture of a frame
_CELL = 10  # pixels of a cell of a map
_EMPTY, _CROSS = 225, 160  # greys of a cell without a value

_BONES = (
    *(("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")),
    *(("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")),
    *(("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist")),
    *(("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist")),
    *(("left_hip", "left_knee"), ("left_knee", "left_ankle")),
    *(("right_hip", "right_knee"), ("right_knee", "right_ankle")),
    *(("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear")),
)
BONES = tuple((INTERNAL.index(a), INTERNAL.index(b)) for a, b in _BONES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image (``source`` is a data URI) or an ``svg`` element; ``alt`` says in words what it shows."""

    alt: str
    source: str | None = None
    svg: str | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures side by side under one label; ``is_wide`` where they are maps wider than high."""

    label: str
    pictures: tuple[Picture, ...]
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """What the lightness of a map means: ``source`` shows it from ``low`` to ``high``."""

    source: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under ``head``; the first column names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A part of a section: heading, strips, what their lightness means, words with values, and a table, if any."""

    heading: str = ""
    note: str = ""
    strips: tuple[Strip, ...] = ()
    scale: Scale | None = None
    words: tuple[tuple[str, str], ...] = ()
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A section of the page: what it shows in ``paragraphs``, then its blocks; none where there is nothing to show."""

    title: str
    paragraphs: tuple[str, ...]
    blocks: tuple[Block, ...] = ()


def png(pixels: npt.NDArray[np.uint8]) -> str:
    """The data URI of a picture ``[H, W, 3]``; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", metadata={"Software": ""})
    return _PNG_URI + base64.b64encode(buffer.getvalue()).decode("ascii")


def png_file(path: Path) -> str | None:
    """The data URI of a saved PNG; None where it is none, or too large for the page."""
    content = path.read_bytes()
    if not content.startswith(_PNG_SIGNATURE) or len(content) > MOST_FILE_BYTES:
        return None
    return _PNG_URI + base64.b64encode(content).decode("ascii")


def smaller(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A frame ``[H, H, 3]`` as means over equal squares, so that its side is at most ``LARGEST_SIDE``."""
    side = frame.shape[0]
    factor = next(f for f in range(1, side + 1) if side % f == 0 and side // f <= LARGEST_SIDE)
    if factor == 1:
        return frame
    squares = frame.reshape(side // factor, factor, side // factor, factor, 3)
    return np.asarray(squares.mean((1, 3)).round(), dtype=np.uint8)


def heat_map(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Cells ``[Y, X]`` as pixels whose lightness rises with the value; crossed out where the value is NaN."""
    shares = (values - low) / max(high - low, 1e-12)
    colours = mpl.colormaps["cividis"](np.nan_to_num(np.clip(shares, 0.0, 1.0)))[..., :3]
    return cells((colours * 255).round().astype(np.uint8), ~np.isnan(values))


def cells(colours: npt.NDArray[np.uint8], is_known: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Cells ``[Y, X, 3]`` drawn as squares, those that are not known grey with a cross."""
    pixels = colours.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    cross = np.full((_CELL, _CELL, 3), _EMPTY, dtype=np.uint8)
    diagonal = np.arange(_CELL)
    cross[diagonal, diagonal] = cross[diagonal, diagonal[::-1]] = _CROSS
    for row, column in np.argwhere(~is_known):
        pixels[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL] = cross
    return pixels


def heat_scale(low: float, high: float) -> Scale:
    """The scale of ``heat_map``."""
    ramp = np.linspace(low, high, 32)[None].repeat(2, axis=0)
    return Scale(png(heat_map(ramp, low, high)), f"{low:.2f}", f"{high:.2f}")


def skeleton_svg(people: Sequence[npt.NDArray[np.float32]], *, is_measured: bool = True) -> str:
    """People ``[17, 3]`` (x, y in the picture, known where the third is above 0) as lines and dots.

    What was measured has solid bones and round joints, what was predicted dashed bones and square ones.
    """
    lines, dots = [], []
    for person in people:
        is_known = person[:, 2] > 0
        for a, b in BONES:
            if is_known[a] and is_known[b]:
                lines.append("M" + "L".join(f"{x * 100:.1f} {y * 100:.1f}" for x, y, _ in (person[a], person[b])))
        dots += [f"{x * 100:.1f} {y * 100:.1f}" for x, y, _ in person[is_known]]
    dashes, cap = ("", "round") if is_measured else (' stroke-dasharray="4 3"', "square")
    bones = f'<path d="{"".join(lines)}" fill="none" stroke="currentColor" stroke-width="1.6"{dashes}/>'
    joints = "".join(f"M{dot}h.1" for dot in dots)
    colour = "#1f78b4" if is_measured else "#d55e00"
    # As a style: figures of matplotlib on the same page set the caps of everything, and that beats an attribute.
    marks = f'<path d="{joints}" fill="none" stroke="{colour}" stroke-width="5" style="stroke-linecap:{cap}"/>'
    frame = '<rect x="0.5" y="0.5" width="99" height="99" fill="none" stroke="currentColor" stroke-opacity=".25"/>'
    return f'<svg viewBox="0 0 100 100" aria-hidden="true">{frame}{bones}{marks}</svg>'
