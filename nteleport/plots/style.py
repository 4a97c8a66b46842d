"""Colors, sizes and fonts: the style of each group, and the sizes that fit a column of a paper.

Colors come in pairs, light for a baseline and dark for its teleported counterpart, one hue per setting. The
hues remain distinguishable under the three kinds of color blindness, and lightness distinguishes a pair in
grayscale print. Besides color, settings differ in their marker, and further teleportations of one setting in
dashes and hatching.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

from nteleport.plots.panels import Group

__all__ = ["COLUMN", "DARK", "LIGHT", "PAGE", "GroupStyle", "group_styles", "paper_style"]

COLUMN = 3.4
"""Width in inches of one column of a two-column paper."""

PAGE = 7.0
"""Width in inches of both columns."""

DARK = ("#004EAB", "#BB4131", "#3F8A67", "#7A337D", "#A87000", "#222222")
LIGHT = ("#9DB2F0", "#FA9681", "#76E0AE", "#E4B9E2", "#F4BC6A", "#ABABAB")

_GRAY = LIGHT[-1]
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_HATCHES = ("", "//////", "......", "xxxxxx")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_SIZES: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 7.5,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "ytick.minor.width": 0.4,
    "ytick.minor.size": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "axes.formatter.limits": (-3, 5),
    "figure.dpi": 300,
    "savefig.dpi": "figure",
    "pdf.fonttype": 42,  # text stays text; publishers reject the default, type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "nteleport",  # the same ids each time
}


@dataclass(frozen=True)
class GroupStyle:
    """How a group is drawn, as a line or as a box."""

    color: str
    dashes: Any = "-"
    hatch: str = ""
    marker: str = ""
    dark: bool = True

    @property
    def contrast(self) -> str:
        """A color that is visible on a fill of this one."""
        return "white" if self.dark else DARK[-1]


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and save with the sizes of this module, regardless of the user's matplotlibrc."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SIZES)
        yield


def group_styles(groups: Sequence[Group]) -> list[GroupStyle]:
    """One style per group.

    With several settings, each has a hue, its baseline light and its teleportations dark. With one setting
    and several teleportations, each teleportation has a hue and their common baseline is gray.
    """
    settings = list(dict.fromkeys(group.setting for group in groups))
    kinds = list(dict.fromkeys(group.kind for group in groups if not group.is_baseline))
    if len(settings) == 1 and len(kinds) > 1:
        return [_kind_style(group, kinds) for group in groups]
    return [_setting_style(group, settings, kinds) for group in groups]


def _kind_style(group: Group, kinds: Sequence[str]) -> GroupStyle:
    if group.is_baseline:
        return GroupStyle(_GRAY, dark=False)
    hue = kinds.index(group.kind)
    return GroupStyle(
        DARK[hue % len(DARK)], hatch=_HATCHES[hue // len(DARK) % len(_HATCHES)], marker=_marker(hue)
    )


def _setting_style(group: Group, settings: Sequence[str], kinds: Sequence[str]) -> GroupStyle:
    hue = settings.index(group.setting)
    marker = _marker(hue) if len(settings) > 1 else ""
    again = hue // len(DARK)  # more settings than hues: the same hues again, hatched
    if group.is_baseline:
        return GroupStyle(LIGHT[hue % len(LIGHT)], "-", _HATCHES[again % len(_HATCHES)], marker, dark=False)
    variant = kinds.index(group.kind)
    hatch = _HATCHES[(again + variant) % len(_HATCHES)]
    return GroupStyle(DARK[hue % len(DARK)], _DASHES[variant % len(_DASHES)], hatch, marker)


def _marker(hue: int) -> str:
    return _MARKERS[hue % len(_MARKERS)]
