"""Figures as inline SVG: no pyplot, no state that outlives a call, text kept as text."""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

INK = "#1f2a37"  # becomes the colour of the page's text, light or dark
MAX_POINTS = 300
_PANEL_POINTS = (380, 232)  # width, height; at 343 CSS pixels, a phone's column, the text is 10 pixels high
_PANEL_AXES = (0.125, 0.17, 0.865, 0.715)  # left, bottom, width, height: room for labels of six digits and a legend
_N_MARKERS = 7


@dataclass(frozen=True, slots=True)
class Stroke:
    """How a line is told from the others: by dashes and marker first, by colour second."""

    dashes: str
    marker: str
    colour: str


STROKES = {
    "all": Stroke("-", "", INK),
    "video": Stroke("-", "o", "#1f78b4"),
    "skeleton": Stroke("--", "s", "#d55e00"),
    "text": Stroke(":", "^", "#138a63"),
    "fusion": Stroke("-", "o", "#1f78b4"),
    "predictor": Stroke("--", "s", "#d55e00"),
}


# 4 and 7 have no common factor: 28 lines differ before two are alike.
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "x", "P")
_COLOURS = ("#1f78b4", "#d55e00", "#138a63", "#7a4fb5", "#8a6d00", "#b0306a", INK)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: ``steps`` and ``values`` of equal length, without NaN."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


def line_panel(
    series: Sequence[Series],
    name: str,
    *,
    is_log: bool = False,
    lowest: float | None = None,
    strokes: Mapping[str, Stroke] = STROKES,
    over: str = "step",
    has_legend: bool = True,
) -> str:
    """Draw a small panel of lines over steps; ``name`` keeps its ids apart from other figures'.

    Lines of more than ``MAX_POINTS`` points are drawn as means over groups of neighbours. Values
    below ``lowest`` lie under the axis. ``strokes`` has one for the name of every line.
    """
    with _style():
        figure = _figure(*_PANEL_POINTS)
        axes = figure.add_axes(_PANEL_AXES)
        for i, line in enumerate(series):
            _draw_line(axes, thin_out(line), i, strokes[line.name])
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
        if lowest is not None and min(min(line.values) for line in series) < lowest:
            axes.set_ylim(lowest, max(0.1, *(max(line.values) for line in series)) * 1.05)
        if lowest is not None:
            axes.axhline(0.0, color=INK, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel(over)
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
        if len(series) > 1 and has_legend:
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, frameon=False, borderpad=0.2,
                handlelength=2.6, columnspacing=1.2, handletextpad=0.5,
            )  # fmt: skip
        return to_svg(figure, name)


def strokes_of(names: Sequence[str]) -> dict[str, Stroke]:
    """A stroke for each of up to 28 names that differs from all others in dashes or marker; then they repeat."""
    names = list(dict.fromkeys(names))
    return {
        name: Stroke(_DASHES[i % len(_DASHES)], _MARKERS[i % len(_MARKERS)], _COLOURS[i % len(_COLOURS)])
        for i, name in enumerate(names)
    }


def stroke_key(stroke: Stroke, name: str) -> str:
    """A short piece of a line, for a legend beside the figures; ``name`` keeps its ids apart."""

    def draw(axes: Axes) -> None:
        _draw_line(axes, Series(name, (0.0, 0.5, 1.0), (0.0, 0.0, 0.0)), 0, replace(stroke, marker=""))
        axes.plot([0.5], [0.0], marker=stroke.marker, color=stroke.colour, markerfacecolor="none", markersize=5)
        axes.set_xlim(-0.05, 1.05)

    return picture_figure(56, 12, name, draw)


def thin_out(line: Series) -> Series:
    """The line as means over equal groups of neighbours, at most ``MAX_POINTS`` of them."""
    size = math.ceil(len(line.values) / MAX_POINTS)
    if size <= 1:
        return line
    groups = [slice(start, start + size) for start in range(0, len(line.values), size)]
    return Series(
        line.name,
        tuple(sum(line.steps[g]) / len(line.steps[g]) for g in groups),
        tuple(sum(line.values[g]) / len(line.values[g]) for g in groups),
    )


def picture_figure(width: int, height: int, name: str, draw: Callable[[Axes], None]) -> str:
    """A figure without axes lines, ``width`` x ``height`` points, filled by ``draw``."""
    with _style():
        figure = _figure(width, height)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        draw(axes)
        return to_svg(figure, name)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element for a page: scalable, no outside names, ids unique by ``name``."""
    buffer = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = name
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # groups that nothing refers to, alike in all figures
    # The page names the figure in words, and its text is set in the page's font.
    text = text.replace("<svg ", '<svg aria-hidden="true" ', 1).replace("xlink:href", "href")
    return text.replace(INK, "currentColor")


def _draw_line(axes: Axes, line: Series, place: int, stroke: Stroke) -> None:
    every = max(len(line.values) // _N_MARKERS, 1)
    axes.plot(
        line.steps,
        line.values,
        label=line.name,
        linestyle=stroke.dashes,
        marker=stroke.marker or ("o" if len(line.values) == 1 else ""),
        markevery=(place * every // 4 % len(line.values), every),  # lines that coincide show each other's markers
        markersize=4.5,
        markerfacecolor="none",
        color=stroke.colour,
        linewidth=1.6,
    )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_alpha(0.0)
    return figure


@contextmanager
def _style() -> Iterator[None]:
    """The page's look whatever the user's matplotlibrc says; the settings before are put back."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "font.size": 11,
                "legend.fontsize": 11,
                "axes.facecolor": "none",
                "axes.edgecolor": INK,
                "axes.labelcolor": INK,
                "axes.linewidth": 0.8,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "text.color": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "hatch.linewidth": 0.9,
            }
        )
        yield
