"""Which jobs share a picture, and which are runs of the same thing.

A `Panel` is one picture's worth of jobs: one data set and one model, unless these are what is compared. In
it, jobs that agree in every hyper-parameter of `group_by` form a `Group`. A group has two coordinates:

- its *setting*: all of `group_by` but the teleportation ("lr 0.01, momentum 0.9");
- its *kind*: the teleportation ("no teleport", "teleported").

So a baseline and its teleported counterpart are two kinds of one setting, and can be drawn as a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nteleport.jobs.table import Scalar

__all__ = ["Group", "Panel"]

_BASELINE = "no_teleport"


@dataclass(frozen=True)
class Group:
    """Runs of the same thing.

    Attributes:
        setting, kind: its two coordinates in words; "" where there is nothing to tell apart.
        label: both, unique in its panel.
        mode: the teleportation mode of its jobs, "" if they differ or have none.
        jobs: positions in `Results.jobs`.
        expected: how many runs it would have if none were missing.
        values: what it has for each word of `group_by`, for tables.
    """

    setting: str
    kind: str
    label: str
    mode: str
    jobs: tuple[int, ...]
    expected: int
    values: Mapping[str, Scalar | None]

    @property
    def is_baseline(self) -> bool:
        return self.mode == _BASELINE


@dataclass(frozen=True)
class Panel:
    """One picture's worth of groups.

    Attributes:
        title: model and data set in words, as far as all groups share them.
        shared: the same by name, for tables.
        name: the same as a file name, unique among panels.
        groups: ordered by setting, then kind, the baseline first.
        warnings: what one must know not to be misled by the picture.
    """

    title: str
    shared: Mapping[str, Scalar | None]
    name: str
    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
