"""The picture of a layer graph: a box per layer with its entries, an arrow per connection. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nteleport.errors import ResultsError, nearest
from nteleport.jobs.atomic import replacing

SUFFIXES = (".svg", ".pdf", ".png")
_ROW, _COLUMN, _BOX = 0.42, 2.3, (1.9, 0.27)
"""Inches: between ranks, between boxes of one rank, and a box."""


def write_graph(
    path: Path,
    edges: Sequence[tuple[str, str]],
    ranks: Mapping[str, int],
    entries: Mapping[str, int],
    tied: frozenset[str],
) -> None:
    """Draw layers from the input at the top to the output at the bottom.

    Args:
        path: the file; its suffix says in which format.
        edges: pairs of layers.
        ranks: the row of each layer.
        entries: how many entries of the CoB each layer owns; layers that are not in it own no parameters.
        tied: layers that share a parameter with another use.

    Raises:
        ResultsError: another suffix, or the file cannot be written.
    """
    check_suffix(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    places = _places(ranks)
    width = _COLUMN * (1 + max(x for x, _ in places.values()) - min(x for x, _ in places.values()))
    height = _ROW * (2 + max(ranks.values()))
    figure = Figure(figsize=(width + 1.6, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for source, target in edges:
        (x, y), (u, v) = places[source], places[target]
        direct = ranks[target] == ranks[source] + 1
        start, end = (x * _COLUMN, -y * _ROW - _BOX[1] / 2), (u * _COLUMN, -v * _ROW + _BOX[1] / 2)
        if not direct and x == u:  # beside the boxes that lie between
            start, end = (start[0] + _BOX[0] / 2, -y * _ROW), (end[0] + _BOX[0] / 2, -v * _ROW)
        bend = "arc3" if direct or x != u else f"arc3,rad={-min(0.9, 1.2 / (v - y)):.2f}"
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=6, lw=0.6, color="#555555", connectionstyle=bend
        )
        axes.add_patch(arrow)
    for name, (x, y) in places.items():
        _box(axes, name, x * _COLUMN, -y * _ROW, entries.get(name), name in tied)
    columns = [x * _COLUMN for x, _ in places.values()]
    axes.set_xlim(min(columns) - _COLUMN / 2, max(columns) + _COLUMN / 2 + 0.8)
    axes.set_ylim(-height + _ROW / 2, _ROW)
    try:
        with replacing(path) as temporary, rc_context({"svg.fonttype": "none", "svg.hashsalt": "nteleport"}):
            undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=undated[path.suffix])
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from error


def check_suffix(path: Path) -> None:
    """Raise `ResultsError` unless the picture of a graph can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        hint = nearest(path.suffix, SUFFIXES)
        raise ResultsError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}{hint}")


def _places(ranks: Mapping[str, int]) -> dict[str, tuple[float, int]]:
    """Column and row of each layer; those of one row are side by side, around the middle."""
    rows: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        rows.setdefault(rank, []).append(name)
    return {
        name: (position - (len(names) - 1) / 2, rank)
        for rank, names in rows.items()
        for position, name in enumerate(names)
    }


def _box(axes, name: str, x: float, y: float, entries: int | None, is_tied: bool) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.patches import FancyBboxPatch

    corner = (x - _BOX[0] / 2, y - _BOX[1] / 2)
    color = "#EEEEEE" if not entries else "#D3E3F5"
    axes.add_patch(
        FancyBboxPatch(
            corner, *_BOX, boxstyle="round,pad=0,rounding_size=0.06", facecolor=color, edgecolor="#333333",
            lw=1.2 if is_tied else 0.6, ls="--" if is_tied else "-",
        )
    )  # fmt: skip
    text = name if entries is None else f"{name}  ·  {entries or 'pinned'}{', tied' if is_tied else ''}"
    axes.text(x, y, text, ha="center", va="center", fontsize=6)
