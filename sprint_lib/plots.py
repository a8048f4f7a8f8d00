"""Every figure of the suite, in one style, from tidy frames, saved as PNG, SVG and CSV.

A figure function takes the frame that is also written beside the picture, so
that what is drawn and what is saved cannot differ; `tables.py` makes the frames
from attempts. `save` names the files after the figure and gives the notebook an
image with the caption as alternative text. Colours are seaborn's colour-blind
palette, a method keeps its colour in all figures, intervals are 95 %.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from sprint_lib.wording import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sprint_lib.store import Workspace

matplotlib.rcParams["svg.hashsalt"] = "sprint"  # the same figure gives the same SVG
_LINES = {"grid.color": "0.88", "axes.edgecolor": "0.6", "figure.constrained_layout.h_pad": 0.07}
WIDTH = 8.0  # inches
DPI = 144
_PALETTE = sns.color_palette("colorblind")
_STYLES: dict[str, tuple[str, Any, str]] = {  # of methods and runs: printed name, colour, marker
    "base": ("Base", _PALETTE[7], "s"),
    "rft": ("RFT", _PALETTE[0], "o"),
    "rft-control": ("RFT, control run", _PALETTE[9], "v"),
    "rft-recorded": ("RFT, as recorded", _PALETTE[3], "^"),
    "sprint": ("SPRINT", _PALETTE[1], "D"),
    "after_plan": ("SPRINT, after the whole plan", _PALETTE[8], "<"),
    "first_success": ("SPRINT, first success", _PALETTE[2], ">"),
    "sos": ("SoS", _PALETTE[8], "<"),
    "sos_plus": ("SoS+", _PALETTE[3], "v"),
    "apr": ("APR", _PALETTE[2], "^"),
    "apr_cond10": ("APR, ten children", _PALETTE[9], "p"),
    "sprint_latency": ("SPRINT, latency rewarded", _PALETTE[4], ">"),
    "self_consistency": ("Self-consistency", _PALETTE[4], "P"),
    "best_of_n": ("Best of N (pass@n)", _PALETTE[6], "X"),
    "skeleton_of_thought": ("Skeleton-of-Thought", _PALETTE[5], "X"),
    "tree_of_thoughts": ("Tree-of-Thoughts", _PALETTE[2], "h"),
    "graph_of_thoughts": ("Graph-of-Thoughts", _PALETTE[8], "p"),
    "sos_plus_votes": ("SoS+ votes (cons@n)", _PALETTE[4], "P"),
    "sos_plus_best": ("SoS+ best (pass@n)", _PALETTE[6], "X"),
    "pasta": ("PASTA", _PALETTE[5], "v"),
    "hogwild": ("Hogwild!", _PALETTE[8], "*"),
    "hogwild_earlier": ("Hogwild!, earlier steps only", _PALETTE[8], "d"),
    "sot_chat": ("SoT (chat)", _PALETTE[5], "X"),
    "sot_reasoning": ("SoT (reasoning)", _PALETTE[2], "^"),
}
PLANNER, EXECUTOR, DISCARDED, INK = _PALETTE[0], _PALETTE[1], (0.75, 0.75, 0.75), (0.15, 0.15, 0.15)


@dataclass(frozen=True)
class Picture:
    """A finished figure: what Jupyter shows, with its caption as alternative text."""

    png: bytes
    caption: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": self.png, "text/plain": self.caption}
        return data, {"image/png": {"alt": self.caption, "width": int(WIDTH * 100)}}


_TRAINED = "_grpo"  # what the name of a model ends with that was trained further by reinforcement
_PRICED = "_latency"  # behind the name of what it was trained from: a run with a price on its path


def _style(method: str) -> tuple[str, Any, str]:
    key = method.replace("-", "_")
    if key.endswith(_TRAINED):
        said, shade, _ = _style(key.removesuffix(_TRAINED))
        return f"{said} GRPO", tuple(0.6 * part for part in shade), "*"
    start, priced, weight = key.partition(_PRICED)
    if priced and start in _STYLES:
        said, shade, _ = _STYLES[start]
        return f"{said} latency{weight.replace('_', ' ')}", tuple(0.5 + 0.5 * part for part in shade), "s"
    found = _STYLES.get(method) or _STYLES.get(key)
    return found or (method.replace("_", " ").replace("-", " "), _PALETTE[6], "o")


def name(method: str) -> str:
    """The printed name of a method or run."""
    return _style(method)[0]


def colour(method: str) -> Any:
    """The colour of a method or run, the same in all figures."""
    return _style(method)[1]


def marker(method: str) -> str:
    """The marker of a method or run, the same in all figures."""
    return _style(method)[2]


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind", font_scale=0.8, rc=_LINES)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _caption(figure: Figure, text: str, handles: Sequence[Artist] = ()) -> None:
    """The caption under the figure, and under it the legend, in one row if it fits, in the lines left blank for it."""
    widths = [0.6 + 0.052 * len(str(handle.get_label())) for handle in handles]  # inches, about
    columns = len(handles) if sum(widths) <= WIDTH else max(1, int(WIDTH / max(widths)))
    blank = "\n" * max(2, round(1.4 * -(-len(handles) // columns))) if handles else ""
    wrapped = textwrap.fill(text, 136, break_on_hyphens=False)
    figure.supxlabel(wrapped + blank, x=0.01, ha="left", fontsize=8, color="0.3", linespacing=1.3)
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
    figure.set_label(text)


def save(figure: Figure, stem: str, data: pd.DataFrame, workspace: Workspace) -> Picture:
    """Write figures/`stem`.png, .svg and .csv and return the picture for the notebook.

    The SVG and CSV of equal data are equal byte for byte: no dates, a fixed hash
    salt, six significant digits.
    """
    from sprint_lib.store import write_bytes, write_text

    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    shown = picture(figure)
    write_bytes(workspace.figures / f"{stem}.png", shown.png)
    write_bytes(workspace.figures / f"{stem}.svg", svg.getvalue())
    write_text(workspace.figures / f"{stem}.csv", data.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return shown


def picture(figure: Figure) -> Picture:
    """A figure for the notebook alone, such as one that is drawn again and again; the figure is closed."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return Picture(png.getvalue(), str(figure.get_label()))


# --- one attempt ------------------------------------------------------------------------

CLOCKS = {"tokens": "generated tokens on the way to the answer", "seconds": "seconds since the question"}


def timeline(frame: pd.DataFrame, *, clock: str, title: str, caption: str = "") -> Figure:
    """Gantt chart of the calls of one or several attempts, a panel each, on one time axis.

    `frame` is made by `tables.timeline`: panel, lane (0 is the planner), name,
    role, start, first (first token), end, critical, discarded, cancelled.
    `clock` is "tokens" or "seconds".
    """
    panels = list(dict.fromkeys(frame["panel"]))
    lanes = [int(frame.loc[frame["panel"] == panel, "lane"].max()) + 1 for panel in panels]
    figure, axes = _figure(
        1.5 + 0.3 * sum(lanes) + 0.35 * len(lanes), len(panels), sharex=True, height_ratios=[n + 0.8 for n in lanes]
    )
    reach = float(frame["end"].max()) or 1.0
    for axis, panel, count in zip(axes.flat, panels, lanes, strict=True):
        rows = frame[frame["panel"] == panel]
        for row in rows.itertuples():
            _bar(axis, row, reach)
        end = float(rows["end"].max())
        axis.axvline(end, color=INK, linewidth=1, linestyle=":")
        amount = f"{end:,.0f} tokens" if clock == "tokens" else f"{end:.2f} s"
        _end_label(axis, end, amount)
        axis.set_yticks(range(count), _lane_names(count, set(rows["role"])))
        axis.set_ylim(count - 0.4, -1.1)
        axis.set_xlim(0, reach * 1.02)
        axis.grid(axis="y", visible=False)
        axis.set_title(panel, loc="left", fontsize=10)
    axes.flat[-1].set_xlabel(CLOCKS[clock])
    figure.suptitle(title, x=0.01, ha="left")
    text = caption or "Dark outline: the critical path, the calls the answer had to wait for."
    _caption(figure, text, _timeline_handles(frame))
    return figure


def _end_label(axis: Axes, end: float, text: str) -> None:
    label = axis.annotate(text, (end, -0.76), ha="right", va="center", xytext=(-3, 0), textcoords="offset points")
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
    label.set_zorder(5)


def _bar(axis: Axes, row: Any, reach: float) -> None:
    gone = row.discarded or row.cancelled
    face = DISCARDED if gone else PLANNER if row.lane == 0 else EXECUTOR
    edge, width = (INK, 1.4) if row.critical else ("white", 0.8)
    order = 3 if row.critical else 2
    axis.barh(row.lane, row.end - row.start, left=row.start, height=0.72, color=face, zorder=order)
    if row.first > row.start:  # waiting and reading the prompt, before the first token
        axis.barh(row.lane, row.first - row.start, left=row.start, height=0.72, color="white", alpha=0.55, zorder=order)
    axis.barh(
        row.lane,
        row.end - row.start,
        left=row.start,
        height=0.72,
        color="none",
        edgecolor=edge,
        linewidth=width,
        hatch="///" if row.discarded else "xxx" if row.cancelled else None,
        zorder=order,
    )
    if not gone and (row.end - row.first) / reach > 0.011 * len(row.name) + 0.01:
        middle = (row.first + row.end) / 2
        axis.text(middle, row.lane, row.name, ha="center", va="center", color="white", fontsize=7.5, zorder=4)


def _lane_names(count: int, roles: Collection[str] = ()) -> list[str]:
    if count == 1:
        return ["model"]
    first, others = ("parent", "child") if "parent" in roles else ("planner", "executor")
    return [first, *(f"{others} {lane}" for lane in range(1, count))]


def _timeline_handles(frame: pd.DataFrame) -> list[Patch]:
    spawns = "parent" in set(frame["role"])
    handles = [Patch(color=PLANNER, label="parent or model" if spawns else "planner or model")]
    if (frame["lane"] > 0).any():
        handles.append(Patch(color=EXECUTOR, label="child" if spawns else "executor"))
    if frame["discarded"].any():
        handles.append(Patch(facecolor=DISCARDED, hatch="///", edgecolor="white", label="thrown away, tried again"))
    if frame["cancelled"].any():
        handles.append(Patch(facecolor=DISCARDED, hatch="xxx", edgecolor="white", label="cancelled"))
    if (frame["first"] > frame["start"]).any():
        handles.append(Patch(facecolor="white", edgecolor="0.6", label="pale: no token yet"))
    return [*handles, Patch(facecolor="none", edgecolor=INK, linewidth=1.4, label="critical path")]


# --- curation ---------------------------------------------------------------------------


def dag(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Figure 7: steps as a layered graph, a band a stage.

    `frame` has a row a step: step, label, band (the stage's title; bands stand in
    the order of the frame), executes, parents (steps, with spaces between).
    Filled boxes have an execution, outlined ones are plan-only. Bands stand side by
    side if the labels fit there in one line, else one below the other.
    """
    columns = dict(iter(frame.groupby("band", sort=False)))
    half = min(0.32, 0.11 * len(columns))
    room = int(2 * half * WIDTH / len(columns) / _CHARACTER)
    figure = _dag_columns(columns, half) if frame["label"].str.len().max() + 4 <= room else _dag_rows(columns)
    figure.suptitle(title, x=0.01, ha="left")
    handles = [
        Patch(facecolor=EXECUTOR, edgecolor=INK, label="has an execution"),
        Patch(facecolor="white", edgecolor=INK, linestyle="--", label="plan only"),
    ]
    _caption(figure, caption or "An arrow leads from a step to a step that needs its result.", handles)
    return figure


def _dag_columns(columns: dict[str, pd.DataFrame], half: float) -> Figure:
    tallest = max(len(rows) for rows in columns.values())
    figure, axes = _figure(1.4 + 0.42 * tallest)
    axis = axes.flat[0]
    places: dict[int, tuple[float, float]] = {}
    for column, (band, rows) in enumerate(columns.items()):
        axis.axvspan(column - 0.46, column + 0.46, color="0.93" if column % 2 else "0.96", zorder=0)
        axis.text(column, -0.9, band, ha="center", va="center", fontsize=9, weight="bold")
        start = (tallest - len(rows)) / 2
        for offset, row in enumerate(rows.itertuples()):
            places[int(row.step)] = (column, start + offset)
            _node(axis, row, column, start + offset, half)
    for rows in columns.values():
        for row in rows.itertuples():
            for parent in row.parents.split():
                _edge(axis, places[int(parent)], places[int(row.step)], half)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(tallest - 0.3, -1.3)
    axis.axis("off")
    return figure


_CHARACTER = 0.057  # inches that a character of a label takes on average
_ACROSS = 4  # steps side by side in a band
_LABEL = 29  # characters in a line of a box, of which there are two


def _dag_rows(bands: dict[str, pd.DataFrame]) -> Figure:
    """Bands one below the other, each as many rows high as it needs; arrows lead downwards."""
    layers = {band: _dag_layers(rows) for band, rows in bands.items()}
    height = sum(map(len, layers.values()))
    figure, axes = _figure(1.1 + 0.52 * height)
    axis = axes.flat[0]
    places: dict[int, tuple[float, float]] = {}
    y = 0
    for number, (band, rows) in enumerate(layers.items()):
        axis.axhspan(y - 0.5, y + len(rows) - 0.5, color="0.93" if number % 2 else "0.97", zorder=0)
        axis.text(-0.33, y + (len(rows) - 1) / 2, band, ha="center", va="center", fontsize=8.5, weight="bold")
        for steps in rows:
            # Below what they rest on, as far as that leaves them in order.
            ordered = sorted(steps, key=lambda row: (_above(row, places), row.step))
            for k, row in enumerate(ordered):
                places[int(row.step)] = (k + (_ACROSS - len(ordered)) / 2 + 0.5, y)
                _box(axis, row, *places[int(row.step)])
            y += 1
    for rows in bands.values():
        for row in rows.itertuples():
            for parent in row.parents.split():
                _arrow(axis, places[int(parent)], places[int(row.step)])
    axis.set_xlim(-0.66, _ACROSS + 0.02)
    axis.set_ylim(height - 0.5, -0.5)
    axis.axis("off")
    return figure


def _dag_layers(rows: pd.DataFrame) -> list[list[Any]]:
    """The steps of a band in rows: below those of the same band that they rest on, at most `_ACROSS` side by side."""
    depth: dict[int, int] = {}
    layers: dict[int, list[Any]] = {}
    for row in rows.sort_values("step").itertuples():
        depth[int(row.step)] = max((depth[p] + 1 for p in map(int, row.parents.split()) if p in depth), default=0)
        layers.setdefault(depth[int(row.step)], []).append(row)
    return [
        layer[start : start + _ACROSS] for _, layer in sorted(layers.items()) for start in range(0, len(layer), _ACROSS)
    ]


def _above(row: Any, places: dict[int, tuple[float, float]]) -> float:
    over = [places[p][0] for p in map(int, row.parents.split()) if p in places]
    return sum(over) / len(over) if over else _ACROSS / 2


def _box(axis: Axes, row: Any, x: float, y: float) -> None:
    face, line = (EXECUTOR, "-") if row.executes else ("white", "--")
    box = FancyBboxPatch(
        (x - 0.48, y - 0.34), 0.96, 0.68, boxstyle="round,pad=0,rounding_size=0.05", facecolor=face, edgecolor=INK,
        linestyle=line, linewidth=1, zorder=3,
    )  # fmt: skip
    axis.add_patch(box)
    label = " ".join(f"{row.step}  {row.label}".split())
    lines = textwrap.wrap(label, _LABEL, max_lines=2, placeholder=" …") or [str(row.step)]
    axis.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=6.6, zorder=4, parse_math=False)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From the foot of a box to the head of one below; behind the boxes between them."""
    a, b = (start[0], start[1] + 0.34), (end[0], end[1] - 0.34)
    bend = 0.12 if end[1] - start[1] > 1 and abs(end[0] - start[0]) < 0.1 else 0
    axis.add_patch(
        FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=8, connectionstyle=f"arc3,rad={bend}", color="0.35", lw=0.9, zorder=2
        )
    )


def _node(axis: Axes, row: Any, x: float, y: float, half: float) -> None:
    face, line = (EXECUTOR, "-") if row.executes else ("white", "--")
    box = FancyBboxPatch(
        (x - half, y - 0.3), 2 * half, 0.6, boxstyle="round,pad=0,rounding_size=0.04", facecolor=face, edgecolor=INK,
        linestyle=line, linewidth=1, zorder=3,
    )  # fmt: skip
    axis.add_patch(box)
    axis.text(x, y, f"{row.step}  {row.label}", ha="center", va="center", fontsize=7.5, zorder=4, parse_math=False)


def _edge(axis: Axes, start: tuple[float, float], end: tuple[float, float], half: float) -> None:
    same = start[0] == end[0]  # a plan-only parent in the same stage: round the side
    a, b = (start[0] + half, start[1]), (end[0] + (half if same else -half), end[1])
    bend = f"arc3,rad={-0.4 if same else 0}"
    axis.add_patch(
        FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=9, connectionstyle=bend, color="0.35", lw=1, zorder=2)
    )


def packing(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Figure 3: one trace before and after packing, on one axis of tokens.

    `frame` has a row a piece of text: side ("before" or "after"), lane, start,
    end, step, kind ("plan", "execution" or "final"), stage. A step keeps its
    colour on both sides; plans are pale.
    """
    sides = {"before": "the trace as it was sampled", "after": "packed into stages"}
    lanes = {side: int(frame.loc[frame["side"] == side, "lane"].max()) + 1 for side in sides}
    figure, axes = _figure(
        1.7 + 0.32 * sum(lanes.values()), 2, sharex=True, height_ratios=[lanes[side] + 0.9 for side in sides]
    )
    reach = float(frame["end"].max())
    shades = sns.husl_palette(max(3, int(frame["step"].max()) + 1), s=0.65, l=0.65)
    for axis, (side, text) in zip(axes.flat, sides.items(), strict=True):
        rows = frame[frame["side"] == side]
        for row in rows.itertuples():
            _piece(axis, row, shades, reach)
        end = float(rows["end"].max())
        axis.axvline(end, color=INK, linewidth=1, linestyle=":")
        _end_label(axis, end, f"{end:,.0f} tokens")
        if side == "after":
            for _, stage in rows[rows["stage"] > 0].groupby("stage"):
                axis.axvline(float(stage["start"].min()), color="0.6", linewidth=0.8, linestyle="--", zorder=1)
        axis.set_yticks(range(lanes[side]), _lane_names(lanes[side]) if side == "after" else ["model"])
        axis.set_ylim(lanes[side] - 0.4, -1.15)
        axis.set_xlim(0, reach * 1.02)
        axis.grid(axis="y", visible=False)
        axis.set_title(text, loc="left", fontsize=10)
    axes.flat[-1].set_xlabel(CLOCKS["tokens"])
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption or "A colour is a step, its number the order in the trace; dashed lines open a stage.")
    return figure


def _piece(axis: Axes, row: Any, shades: Sequence[Any], reach: float) -> None:
    shade = (0.35, 0.35, 0.35) if row.kind == "final" else shades[int(row.step)]
    width = row.end - row.start
    axis.barh(
        row.lane, width, left=row.start, height=0.72, color=shade, alpha=0.45 if row.kind == "plan" else 1.0,
        edgecolor="white", linewidth=0.6, zorder=2,
    )  # fmt: skip
    label = "answer" if row.kind == "final" else str(row.step)
    if width / reach > 0.009 * len(label) + 0.004:
        axis.text(row.start + width / 2, row.lane, label, ha="center", va="center", fontsize=7, zorder=3, color=INK)


def histogram(
    frame: pd.DataFrame, column: str, *, label: str, title: str, threshold: float | None = None, caption: str = ""
) -> Figure:
    """Counts of one column; a dashed line marks a threshold below which rows are left out."""
    figure, axes = _figure(3.2)
    axis = axes.flat[0]
    values = frame[column].to_numpy(dtype=float)
    whole = bool(np.all(values == np.round(values))) and values.max() - values.min() <= 40
    bins: Any = np.arange(values.min() - 0.5, values.max() + 1.0) if whole else 30
    axis.hist(values, bins=bins, color=PLANNER, edgecolor="white", linewidth=0.6)
    if threshold is not None:
        axis.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
        share = float((values >= threshold).mean())
        axis.annotate(
            f"{share:.0%} at or above {threshold:g}", (threshold, 0.96), xycoords=("data", "axes fraction"),
            xytext=(6, 0), textcoords="offset points", va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(9, integer=whole))
    axis.set_ylabel("traces")
    figure.suptitle(title, x=0.01, ha="left")
    _caption(
        figure, caption or f"n = {len(values):,}; median {readable(np.median(values))}, mean {readable(values.mean())}."
    )
    return figure


def loss_curves(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Training loss by trained tokens. `frame`: model, tokens, loss (nats a token)."""
    figure, axes = _figure(3.4)
    axis = axes.flat[0]
    for model, rows in frame.groupby("model", sort=False):
        axis.plot(
            rows["tokens"] / 1e3,
            rows["loss"],
            marker=".",
            color=colour(str(model)),
            label=name(str(model)),
            linewidth=1.6,
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("trained tokens (thousands)")
    axis.set_ylabel("loss (nats a token)")
    figure.suptitle(title, x=0.01, ha="left")
    caption = caption or "Mean cross-entropy over the tokens that carry the loss, as logged while training."
    _caption(figure, caption, axis.get_lines())
    return figure


# --- evaluation -------------------------------------------------------------------------


def _whisker(rows: pd.DataFrame | pd.Series, column: str) -> np.ndarray:
    """Distances from the value to its bounds, never negative, NaN (not drawn) where there are none, (2, rows)."""
    value, low, high = (np.atleast_1d(rows[c]).astype(float) for c in (column, f"{column}_low", f"{column}_high"))
    return np.clip(np.stack([value - low, high - value]), 0, None)


def accuracy_tokens(frame: pd.DataFrame, *, title: str, caption: str = "", one_scale: bool = False) -> Figure:
    """Figure 4: accuracy against mean sequential tokens, a cross of 95 % intervals a method.

    `frame`: panel, method, accuracy and sequential with `_low` and `_high` (NaN
    where no interval is known), one panel a source. With `one_scale` they share
    their axes, for sources that are about the same runs.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = _figure(3.9, 1, len(panels), sharex=one_scale, sharey=one_scale)
    for axis, panel in zip(axes.flat, panels, strict=True):
        rows = frame[frame["panel"] == panel]
        for _, row in rows.iterrows():
            method = str(row["method"])
            axis.errorbar(
                row["sequential"], row["accuracy"], xerr=_whisker(row, "sequential"), yerr=_whisker(row, "accuracy"),
                fmt=marker(method), color=colour(method), markersize=8, capsize=3, label=name(method),
            )  # fmt: skip
        axis.set_title(panel, loc="left", fontsize=10)
        axis.set_xlabel("sequential tokens a problem (mean)")
        axis.set_xlim(0, 1.12 * float((frame if one_scale else rows)[["sequential", "sequential_high"]].max(axis=None)))
        axis.margins(y=0.15)
        axis.yaxis.set_major_locator(MaxNLocator(6))
    axes.flat[0].set_ylabel("accuracy (%)")
    figure.suptitle(title, x=0.01, ha="left")
    shown = dict.fromkeys(map(str, frame["method"]))
    handles = [Line2D([], [], color=colour(m), marker=marker(m), linestyle="none", label=name(m)) for m in shown]
    _caption(figure, caption, handles)
    return figure


def forest(frame: pd.DataFrame, *, label: str, title: str, caption: str = "") -> Figure:
    """Values with their intervals, all series of a row in one line, a panel a group of rows.

    `frame`: panel, row, series (a method or a quantity), value with `_low` and `_high` (NaN where there is none),
    paper (the value that a dashed line marks, NaN for none). A series keeps its colour in all panels.
    """
    series = list(dict.fromkeys(map(str, frame["series"])))
    looks = {one: _STYLES.get(one) or (name(one), _PALETTE[k], "osD^v"[k % 5])
             for k, one in enumerate(series)}  # fmt: skip
    panels = {str(panel): rows for panel, rows in frame.reset_index().groupby("panel", sort=False)}
    sizes = [rows["row"].nunique() for rows in panels.values()]
    height = 1.6 + max(0.3, 0.13 * len(series)) * sum(sizes) + 0.35 * len(panels)
    figure, axes = _figure(height, len(panels), sharex=True, height_ratios=[k + 0.6 for k in sizes])
    for axis, (panel, rows) in zip(axes.flat, panels.items(), strict=True):
        names = list(dict.fromkeys(rows["row"]))
        beside = rows.assign(rank=rows["series"].map(series.index)).groupby("row")["rank"].rank()
        shift = 0.6 * (beside - (rows.groupby("row")["row"].transform("size") + 1) / 2) / len(series)
        places = rows["row"].map(names.index) + shift
        for one, (_, shade, shape) in looks.items():
            here = rows[rows["series"] == one]
            axis.errorbar(
                here["value"], places[here.index], xerr=_whisker(here, "value"), fmt=shape, color=shade, markersize=5,
                capsize=2, linewidth=1.2,
            )  # fmt: skip
            for paper in here["paper"].dropna().unique():
                axis.axvline(paper, color=shade, linestyle="--", linewidth=1.2, zorder=1)
        axis.set_yticks(range(len(names)), ["\n".join(textwrap.wrap(row, 52)) for row in names], fontsize=7.5)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(panel, loc="left", fontsize=10)
    axes.flat[-1].set_xlabel(label)
    figure.suptitle(title, x=0.01, ha="left")
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=said) for said, c, m in looks.values()]
    if frame["paper"].notna().any():
        handles.append(Line2D([], [], color=INK, linestyle="--", label="the paper"))
    _caption(figure, caption, handles)
    return figure


def contrasts(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Quantities side by side, a column each on an axis of its own; a row is a way of counting.

    `frame`: quantity (with its unit), row, value with `_low` and `_high`, paper (a dashed line), none (the value that
    means no effect, a solid line), NaN where there is none.
    """
    columns, rows = (list(dict.fromkeys(map(str, frame[key]))) for key in ("quantity", "row"))
    figure, axes = _figure(1.9 + 0.36 * len(rows), 1, len(columns), sharey=True)
    for axis, quantity in zip(axes.flat, columns, strict=True):
        here = frame[frame["quantity"] == quantity]
        axis.errorbar(
            here["value"], here["row"].map(rows.index), xerr=_whisker(here, "value"), fmt="o", color=colour("sprint"),
            markersize=5, capsize=2, linewidth=1.2,
        )  # fmt: skip
        for column, line in (("none", "-"), ("paper", "--")):
            for at in here[column].dropna().unique():
                axis.axvline(at, color=INK, linestyle=line, linewidth=1.2, zorder=1)
        axis.set_xlabel("\n".join(textwrap.wrap(quantity, 20 if len(columns) > 2 else 40)))
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes.flat[0].set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(row, 36)) for row in rows], fontsize=7.5)
    axes.flat[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(title, x=0.01, ha="left")
    lines = (("no effect", "-"), ("the paper", "--"))
    _caption(figure, caption, [Line2D([], [], color=INK, linestyle=line, label=said) for said, line in lines])
    return figure


def stage_reach(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Figure 5: share of a group's problems that reach each stage, and how many plan in parallel there.

    `frame`: group, stage, share (percent), problems (in the group), parallel
    (problems whose stage has more than one prompt).
    """
    figure, axes = _figure(4.6, 2, sharex=True, height_ratios=[3, 2])
    upper, lower = axes.flat
    groups = list(dict.fromkeys(frame["group"]))
    shades = sns.color_palette("viridis", len(groups))
    for group, shade, shape in zip(groups, shades, cycle("osD^vP"), strict=False):
        rows = frame[frame["group"] == group]
        label = f"{group} (n = {int(rows['problems'].iloc[0])})"
        upper.plot(rows["stage"], rows["share"], marker=shape, color=shade, label=label)
        lower.plot(rows["stage"], rows["parallel"], marker=shape, markersize=5, linestyle="--", color=shade)
    upper.set_ylabel("problems that\nreach the stage (%)")
    lower.set_ylabel("problems with more\nthan one prompt")
    lower.set_xlabel("stage")
    deepest = int(frame["stage"].max())
    lower.set_xlim(0.7, deepest + 0.3)
    lower.set_xticks(range(1, deepest + 1))
    upper.set_ylim(0, 104)
    lower.set_ylim(bottom=0)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption)
    return figure


def reduction(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Figure 6: reduction of sequential tokens by the baseline's length, bucket by bucket.

    `frame`: series, style ("main", "naive", "mean" or "null"), length (mean
    tokens of the bucket in the run that decides the buckets), reduction
    (percent) with `_low` and `_high`, n.
    """
    looks = {
        "main": ("-", "o", colour("sprint")),
        "naive": ("--", "s", _PALETTE[4]),
        "mean": ("-.", "^", _PALETTE[2]),
        "null": (":", "v", _PALETTE[7]),
    }
    figure, axes = _figure(4.2)
    axis = axes.flat[0]
    axis.axhline(0, color=INK, linewidth=1)
    names = list(dict.fromkeys(frame["series"]))
    for series, rows in frame.groupby("series", sort=False):
        line, shape, shade = looks[str(rows["style"].iloc[0])]
        aside = (names.index(series) - (len(names) - 1) / 2) * 0.004 * float(frame["length"].max())
        axis.errorbar(  # side by side, so that intervals can be told apart
            rows["length"] + aside, rows["reduction"], yerr=_whisker(rows, "reduction"), linestyle=line, marker=shape,
            color=shade, capsize=3, label=str(series),
        )  # fmt: skip
    axis.set_xlabel("sequential tokens of the run that decides the bucket (mean of the bucket)")
    axis.set_ylabel("fewer sequential tokens (%)")
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption)
    return figure


def distributions(frame: pd.DataFrame, *, label: str, title: str, caption: str = "") -> Figure:
    """Share of problems that needed at most so much. `frame`: method, value; a dot marks the median."""
    figure, axes = _figure(3.4)
    axis = axes.flat[0]
    for method, rows in frame.groupby("method", sort=False):
        values = np.sort(rows["value"].to_numpy(dtype=float))
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        axis.step(values, share, where="post", color=colour(str(method)), label=name(str(method)), linewidth=1.6)
        axis.plot(np.median(values), 50, "o", color=colour(str(method)), markersize=7)
    axis.set_ylim(0, 101)
    axis.set_xlim(left=0)
    axis.set_xlabel(label)
    axis.set_ylabel("problems (%)")
    axis.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="lower right")
    figure.suptitle(title, x=0.01, ha="left")
    sizes = ", ".join(f"{name(str(method))} {n:,}" for method, n in frame.groupby("method", sort=False).size().items())
    _caption(figure, caption or f"Problems: {sizes}; dots: medians.")
    return figure


def wall_clock(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Bars of a quantity per method, a panel a quantity, each with its own unit.

    `frame`: panel (with unit), method, value with `_low` and `_high`.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = _figure(3.0, 1, len(panels))
    for axis, panel in zip(axes.flat, panels, strict=True):
        rows = frame[frame["panel"] == panel]
        places = np.arange(len(rows))
        axis.bar(places, rows["value"], color=[colour(str(m)) for m in rows["method"]], width=0.62)
        axis.errorbar(places, rows["value"], yerr=_whisker(rows, "value"), fmt="none", color=INK, capsize=4)
        for place, value, high in zip(places, rows["value"], rows["value_high"].fillna(rows["value"]), strict=True):
            axis.annotate(readable(value), (place, high), ha="center", xytext=(0, 3), textcoords="offset points")
        axis.set_xticks(places, [name(str(m)) for m in rows["method"]])
        axis.margins(y=0.15)
        axis.grid(axis="x", visible=False)
        axis.set_title("\n".join(textwrap.wrap(panel, 30)), loc="left", fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption)
    return figure


_PARTS = {"decoding": "decoding", "first_tokens": "until a first token", "between": "no call in the engine"}


def seconds_by_part(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Stacked bars of seconds a problem. `frame`: method, part (those of `latency.Spent`), seconds."""
    methods = list(dict.fromkeys(map(str, frame["method"])))
    figure, axes = _figure(1.6 + 0.42 * len(methods))
    axis = axes.flat[0]
    ends = dict.fromkeys(methods, 0.0)
    shades = dict(zip(_PARTS, (PLANNER, EXECUTOR, DISCARDED), strict=True))
    for row in frame.itertuples():
        axis.barh(methods.index(row.method), row.seconds, left=ends[row.method], color=shades[row.part], height=0.62)
        ends[row.method] += row.seconds
    for place, method in enumerate(methods):
        axis.annotate(f"{readable(ends[method])} s", (ends[method], place), xytext=(4, 0), va="center",
                      textcoords="offset points")  # fmt: skip
    axis.set_yticks(range(len(methods)), [name(method) for method in methods])
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("seconds a problem (mean)")
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption, [Patch(color=shades[part], label=said) for part, said in _PARTS.items()])
    return figure


def by_load(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Quantities against how many run at once, a panel each. `frame`: panel (with unit), method, at_once, value."""
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = _figure(3.4, 1, len(panels))
    for axis, panel in zip(axes.flat, panels, strict=True):
        for method, rows in frame[frame["panel"] == panel].groupby("method", sort=False):
            look = {"color": colour(str(method)), "marker": marker(str(method)), "label": name(str(method))}
            axis.plot(rows["at_once"], rows["value"], **look)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_ylim(0, 1.1 * float(frame.loc[frame["panel"] == panel, "value"].max()))
        axis.set_xlabel("at once")
        axis.set_title("\n".join(textwrap.wrap(panel, 34)), loc="left", fontsize=9.5)
    shown = dict.fromkeys(map(str, frame["method"]))
    handles = [Line2D([], [], color=colour(m), marker=marker(m), label=name(m)) for m in shown]
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption, handles)
    return figure


_FAMILIES = ("one line", "many samples", "directed from outside", "trained to branch", "shared cache", "other")
_FAMILY_SHADES = dict(zip(_FAMILIES, (_PALETTE[k] for k in (0, 4, 2, 1, 3, 7)), strict=True))


def pareto(frame: pd.DataFrame, *, label: str, title: str, caption: str = "") -> Figure:
    """Accuracy against a cost on a logarithmic axis; the runs of a method are connected, each with its dial's value.

    `frame`: method, family (a colour each), label (the value, or nothing), x and y with `_low` and `_high`, front
    (whether no other run costs less and is right as often: joined by a dotted line).
    """
    figure, axes = _figure(5.6)
    axis = axes.flat[0]
    frame = frame[frame["x"] > 0]
    ends = []
    for method, rows in frame.groupby("method", sort=False):
        shade = _FAMILY_SHADES.get(str(rows["family"].iloc[0]), _PALETTE[7])
        axis.errorbar(
            rows["x"], rows["y"], xerr=_whisker(rows, "x"), yerr=_whisker(rows, "y"), fmt="none", ecolor=shade,
            elinewidth=0.8, alpha=0.45,
        )  # fmt: skip
        axis.plot(rows["x"], rows["y"], marker=marker(str(method)), color=shade, markersize=6, linewidth=1.2)
        ends.append((rows.loc[rows["y"].idxmax()], name(str(method)), shade))
    best = frame[frame["front"]].sort_values("x")
    axis.plot(best["x"], best["y"], linestyle=":", color=INK, linewidth=1, zorder=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)
    axis.set_ylabel("accuracy (%)")
    axis.margins(x=0.1, y=0.08)
    figure.suptitle(title, x=0.01, ha="left")
    shown = dict.fromkeys(map(str, frame["family"]))
    handles = [Line2D([], [], color=_FAMILY_SHADES.get(f, _PALETTE[7]), marker="o", label=f) for f in shown]
    _caption(figure, caption, handles)
    _direct_labels(figure, axis, frame, ends)
    return figure


_Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


def _direct_labels(figure: Figure, axis: Axes, frame: pd.DataFrame, ends: Sequence[tuple[Any, str, Any]]) -> None:
    """A name at one point of each method and a dial's value at every point, where the least lies under them."""
    figure.draw_without_rendering()  # settles the layout, which places in points depend on
    scale = 72 / float(figure.dpi)
    at = axis.transData.transform(frame[["x", "y"]].to_numpy(dtype=float)) * scale
    left, bottom, right, top = (float(edge) * scale for edge in axis.get_window_extent().extents)
    room = (left, bottom, right, top)
    taken: list[_Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for _, rows in frame.reset_index(drop=True).groupby("method"):
        for (x, y), (u, v) in pairwise(at[rows.index]):
            along = ((x + (u - x) * part, y + (v - y) * part) for part in np.linspace(0, 1, 20))
            taken += [(px - 2, py - 2, px + 2, py + 2) for px, py in along]
    texts: list[tuple[Any, str, Any, float]] = [((row["x"], row["y"]), said, shade, 8.0) for row, said, shade in ends]
    texts += [((r.x, r.y), str(r.label), "0.35", 6.0) for r in frame.itertuples() if r.label]
    for place, said, shade, size in texts:
        x, y = axis.transData.transform(place) * scale
        reaches = (6, 12, 20, 32, 46, 62) if size == 8.0 else (6,)  # a dial's value stands beside its point or nowhere
        cost, reach, box = _best_place(x, y, (0.58 * size * len(said), 1.15 * size), reaches, taken, room)
        if size < 8.0 and cost > 25:
            continue
        taken.append(box)
        line = {"arrowstyle": "-", "color": shade, "lw": 0.6, "shrinkA": 0, "shrinkB": 3} if reach > 12 else None
        offset = ((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y)
        axis.annotate(
            said, place, xytext=offset, textcoords="offset points", ha="center", va="center", fontsize=size,
            color=shade, arrowprops=line, zorder=5,
        )  # fmt: skip


def _best_place(
    x: float, y: float, size: tuple[float, float], reaches: Sequence[float], taken: Sequence[_Box], room: _Box
) -> tuple[float, float, _Box]:
    """Where a box of that size beside a point covers least and is inside the room: its cost, how far off, the box."""
    width, height = size
    found = []
    for reach in reaches:
        for dx, dy in ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0)):
            left, bottom = x + dx * (reach + width / 2) - width / 2, y + dy * (reach + height / 2) - height / 2
            box = (left, bottom, left + width, bottom + height)
            outside = width * height - _common(box, room)
            found.append((reach + sum(_common(box, other) for other in taken) + 3 * outside, reach, box))
    return min(found)


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def curves(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Accuracy along a quantity, a line a series, a panel a quantity or a source.

    `frame`: panel, label (what the panel's axis is), series, x, accuracy with `_low` and `_high` (NaN: none known).
    """
    panels = list(dict.fromkeys(frame["panel"]))
    lines, columns = (1, len(panels)) if len(panels) < 4 else ((len(panels) + 1) // 2, 2)
    figure, axes = _figure(1.1 + 2.8 * lines, lines, columns)
    for axis, panel in zip(axes.flat, panels, strict=False):
        rows = frame[frame["panel"] == panel]
        for series, line in rows.groupby("series", sort=False):
            axis.errorbar(
                line["x"], line["accuracy"], yerr=_whisker(line, "accuracy"), marker=marker(str(series)),
                color=colour(str(series)), capsize=2, markersize=5, linewidth=1.3,
            )  # fmt: skip
        axis.set_title("\n".join(textwrap.wrap(panel, 100 // columns)), loc="left", fontsize=9.5)
        axis.set_xlabel("\n".join(textwrap.wrap(str(rows["label"].iloc[0]), 90 // columns)))
        reach = float(rows["x"].max())
        axis.set_xlim(-0.05 * reach if rows["x"].min() <= 0 else 0, 1.08 * reach)
        axis.xaxis.set_major_locator(MaxNLocator(12 // columns, integer=bool(rows["x"].max() > 2)))
        axis.margins(y=0.12)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    figure.suptitle(title, x=0.01, ha="left")
    shown = dict.fromkeys(map(str, frame["series"]))
    _caption(figure, caption, [Line2D([], [], color=colour(m), marker=marker(m), label=name(m)) for m in shown])
    return figure


def claims(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """The paper's value and this run's interval, claim by claim, a panel a unit.

    `frame`: quantity, unit, paper (NaN if it gives only a direction), value, low, high, verdict.
    """
    units = list(dict.fromkeys(frame["unit"]))
    sizes = [int((frame["unit"] == unit).sum()) for unit in units]
    figure, axes = _figure(
        1.5 + 0.42 * sum(sizes) + 0.5 * len(units), len(units), height_ratios=[k + 0.6 for k in sizes]
    )
    shades = {"reproduced": _PALETTE[2], "different": _PALETTE[3], "underpowered": _PALETTE[7]}
    for axis, unit in zip(axes.flat, units, strict=True):
        rows = frame[frame["unit"] == unit].reset_index(drop=True)
        for place, row in rows.iterrows():
            axis.plot([row["low"], row["high"]], [place, place], color=shades[row["verdict"]], linewidth=2.5)
            axis.plot(row["value"], place, "o", color=shades[row["verdict"]], markersize=7)
            axis.plot(row["paper"], place, "D", color="white", markeredgecolor=INK, markersize=7)
        axis.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(q, 46)) for q in rows["quantity"]], fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.axvline(1.0 if unit == "ratio" else 0.0, color=INK, linewidth=1.2, linestyle="--", zorder=1)
        axis.set_xlabel(unit)
    figure.suptitle(title, x=0.01, ha="left")
    handles = [Patch(color=shade, label=f"this run: {verdict}") for verdict, shade in shades.items()]
    handles.append(Patch(facecolor="white", edgecolor=INK, label="diamond: the paper"))
    _caption(figure, caption, handles)
    return figure


def response(frame: pd.DataFrame, *, label: str, title: str, caption: str = "") -> Figure:
    """Quantities against a number that was set, a panel each: means with their intervals, single runs as pale dots.

    `frame`: panel (with unit), x, run ("all" for the mean over runs), value with `_low` and `_high` (NaN for a run).
    """
    panels = list(dict.fromkeys(frame["panel"]))
    lines = (len(panels) + 1) // 2
    figure, axes = _figure(0.8 + 2.3 * lines, lines, min(2, len(panels)), sharex=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        rows = frame[frame["panel"] == panel]
        mean, single = rows[rows["run"] == "all"], rows[rows["run"] != "all"]
        axis.plot(single["x"], single["value"], "o", color=colour("sprint"), alpha=0.35, markersize=5, linewidth=0)
        axis.errorbar(
            mean["x"], mean["value"], yerr=_whisker(mean, "value"), marker=marker("sprint"), color=colour("sprint"),
            capsize=3,
        )  # fmt: skip
        axis.set_title(panel, loc="left", fontsize=10)
        axis.set_xticks(sorted(mean["x"].unique()))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(label)
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption)
    return figure


def predicted_measured(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Latency model against the clock. `frame`: method, predicted, measured (seconds)."""
    figure, axes = _figure(4.0)
    axis = axes.flat[0]
    top = float(frame[["predicted", "measured"]].to_numpy().max()) * 1.05
    axis.plot([0, top], [0, top], color=INK, linewidth=1, linestyle=":")
    for method, rows in frame.groupby("method", sort=False):
        axis.scatter(
            rows["predicted"], rows["measured"], s=22, alpha=0.75, color=colour(str(method)),
            marker=marker(str(method)), label=name(str(method)), linewidths=0,
        )  # fmt: skip
    axis.set_xlim(0, top)
    axis.set_ylim(0, top)
    axis.set_xlabel("latency model (seconds)")
    axis.set_ylabel("measured (seconds)")
    axis.legend(frameon=False, loc="upper left")
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption)
    return figure


# --- reinforcement ------------------------------------------------------------------------

_SMOOTH = 5  # steps


def _runs(frame: pd.DataFrame) -> dict[str, tuple[str, Any, str]]:
    """Printed name, colour and marker of each run; runs that have none of their own take further colours in turn."""
    runs = list(dict.fromkeys(map(str, frame["run"])))
    known = {run for run in runs if run.replace("-", "_") in _STYLES}
    rest = cycle(zip((_PALETTE[k] for k in (0, 6, 5, 9, 7)), "osD<P", strict=True))
    return {run: _style(run) if run in known else (name(run), *next(rest)) for run in runs}


def training_curves(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Quantities of a training step by step, a panel each: pale as measured, strong the mean of five steps.

    `frame`: panel (with unit), run, step (from 1), value (NaN where there is none).
    """
    panels = list(dict.fromkeys(frame["panel"]))
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    lines = -(-len(panels) // columns)
    figure, axes = _figure(1.0 + 1.75 * lines, lines, columns, sharex=True)
    looks = _runs(frame)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for run, rows in frame[frame["panel"] == panel].groupby("run", sort=False):
            shade, rows = looks[str(run)][1], rows.dropna(subset=["value"])
            smooth = rows["value"].rolling(_SMOOTH, center=True, min_periods=1).mean()
            axis.plot(rows["step"], rows["value"], color=shade, alpha=0.35, linewidth=0.9, marker=".", markersize=3)
            axis.plot(rows["step"], smooth, color=shade, linewidth=1.8)
        axis.set_title("\n".join(textwrap.wrap(panel, 34)), loc="left", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_xlim(0.5, max(2.0, float(frame["step"].max())) + 0.5)
        axis.margins(y=0.12)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption, [Line2D([], [], color=shade, label=said) for said, shade, _ in looks.values()])
    return figure


def before_after(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Quantities before and after, an arrow a run; a line of panels a source, each panel with an axis of its own.

    `frame`: source, run, quantity (with unit), before and after with `_low` and `_high` (NaN: none known).
    """
    sources, quantities = (list(dict.fromkeys(frame[key])) for key in ("source", "quantity"))
    looks = _runs(frame)
    sizes = [frame.loc[frame["source"] == source, "run"].nunique() for source in sources]
    heights = [k + 0.8 for k in sizes]
    figure, axes = _figure(
        1.3 + 0.42 * sum(sizes) + 0.75 * len(sources), len(sources), len(quantities), height_ratios=heights
    )
    for line, source in zip(axes, sources, strict=True):
        rows = frame[frame["source"] == source]
        runs = list(dict.fromkeys(map(str, rows["run"])))
        for axis, quantity in zip(line, quantities, strict=True):
            for _, row in rows[rows["quantity"] == quantity].iterrows():
                _, shade, shape = looks[str(row["run"])]
                y = runs.index(str(row["run"]))
                for side, face, up in (("before", "white", 0.1), ("after", shade, -0.1)):
                    axis.errorbar(
                        row[side], y - up, xerr=_whisker(row, side), fmt=shape, color=shade, markerfacecolor=face,
                        markersize=6, capsize=2, linewidth=1,
                    )  # fmt: skip
                axis.annotate(
                    "", (row["after"], y + 0.1), (row["before"], y - 0.1),
                    arrowprops={"arrowstyle": "->", "color": shade, "lw": 1, "shrinkA": 4, "shrinkB": 4},
                )  # fmt: skip
            axis.set_ylim(len(runs) - 0.4, -0.6)
            axis.set_yticks(range(len(runs)), [textwrap.fill(looks[r][0], 14) for r in runs] if axis is line[0] else [])
            axis.xaxis.set_major_locator(MaxNLocator(3))
            axis.margins(x=0.15)
            axis.set_xlabel(quantity, fontsize=8.5)
        line[0].set_title(source, loc="left", fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left")
    _caption(figure, caption, _sides())
    return figure


def arrows(frame: pd.DataFrame, *, label: str, title: str, caption: str = "") -> Figure:
    """Accuracy against a cost, before and after, an arrow a run, a panel a source.

    `frame`: panel, run, step ("before" or "after"), label (beside the point, "" for none), x and y with `_low` and
    `_high` (NaN: none known).
    """
    panels = list(dict.fromkeys(frame["panel"]))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _figure(1.1 + 2.9 * lines, lines, columns)
    looks = _runs(frame)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for run, rows in frame[frame["panel"] == panel].groupby("run", sort=False):
            _, shade, shape = looks[str(run)]
            ends = {row["step"]: row for _, row in rows.iterrows()}
            for step, row in ends.items():
                axis.errorbar(
                    row["x"], row["y"], xerr=_whisker(row, "x"), yerr=_whisker(row, "y"), fmt=shape, color=shade,
                    markerfacecolor=shade if step == "after" else "white", markersize=7, elinewidth=0.8, capsize=2,
                )  # fmt: skip
                right, up = (row[of] >= ends["before"][of] for of in ("x", "y"))  # away from where the arrow comes from
                axis.annotate(
                    row["label"], (row["x"], row["y"]), xytext=(6 if right else -6, 5 if up else -12),
                    ha="left" if right else "right", textcoords="offset points", fontsize=8,
                )  # fmt: skip
            places = [(ends[step]["x"], ends[step]["y"]) for step in ("after", "before")]
            axis.annotate("", *places, arrowprops={"arrowstyle": "->", "color": shade, "lw": 1.3, "shrinkA": 5})
        axis.set_title("\n".join(textwrap.wrap(panel, 100 // columns)), loc="left", fontsize=9.5)
        axis.set_xlabel(label)
        axis.margins(0.14)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    figure.suptitle(title, x=0.01, ha="left")
    shown = [Line2D([], [], color=c, marker=m, linestyle="none", label=said) for said, c, m in looks.values()]
    _caption(figure, caption, [*shown, *_sides()])
    return figure


def spreads(frame: pd.DataFrame, *, title: str, caption: str = "") -> Figure:
    """Share of problems that took at most so much, before (dashed) and after, a panel a quantity.

    `frame`: panel, run, step ("before" or "after"), value.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = _figure(3.6, 1, len(panels), sharey=True)
    looks = _runs(frame)
    for axis, panel in zip(axes.flat, panels, strict=True):
        for (run, step), rows in frame[frame["panel"] == panel].groupby(["run", "step"], sort=False):
            values = np.sort(rows["value"].to_numpy(dtype=float))
            share = 100 * np.arange(len(values) + 1) / len(values)
            values = np.concatenate([values[:1], values])
            line = "-" if step == "after" else "--"
            axis.step(values, share, where="post", color=looks[str(run)][1], linestyle=line, linewidth=1.5)
        axis.set_xlabel(panel)
        axis.set_xlim(left=0)
    axes.flat[0].set_ylabel("problems (%)")
    axes.flat[0].set_ylim(0, 101)
    figure.suptitle(title, x=0.01, ha="left")
    shown = [Line2D([], [], color=shade, label=said) for said, shade, _ in looks.values()]
    shown += [Line2D([], [], color=INK, linestyle=line, label=s) for s, line in (("before", "--"), ("after", "-"))]
    _caption(figure, caption, shown)
    return figure


def _sides() -> list[Line2D]:
    faces = (("before", "white"), ("after", INK))
    return [Line2D([], [], color=INK, marker="o", markerfacecolor=f, linestyle="none", label=s) for s, f in faces]
