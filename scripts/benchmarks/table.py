"""Showing figures: a Markdown table, so that what the command prints can go into a document as it is."""

from __future__ import annotations

from collections.abc import Iterable

from .timing import Figure

HEADER = ("what", "against", "ours", "theirs", "ratio", "quartiles", "rounds", "target", "")
WIDTHS = (52, 41, 10, 10, 6, 13, 6, 6, 6)


def header() -> str:
    """The first two lines of the table."""
    return f"{_line(HEADER)}\n|{'|'.join('-' * (width + 2) for width in WIDTHS)}|"


def row(figure: Figure) -> str:
    """The line of a figure."""
    verdict = {None: "", True: "met", False: "missed"}[figure.reached]
    cells = (
        figure.what,
        figure.against,
        _quantity(figure.ours, figure.unit),
        _quantity(figure.theirs, figure.unit),
        f"{figure.ratio:.3f}",
        f"{figure.low:.3f}–{figure.high:.3f}",
        str(figure.rounds),
        "" if figure.target is None else f"≤ {figure.target:g}",
        verdict,
    )
    return _line(cells)


def _line(cells: Iterable[str]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))
    return f"| {' | '.join(padded)} |"


def _quantity(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
