"""What a section of the report is made of: plain values, which `html` and `markdown` turn into text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["text", "code", "number", "percent", "seconds"]
Value = str | int | float | bool | None

MOST_ROWS = 2000
"""A table shows no more rows than this."""


@dataclass(frozen=True)
class Note:
    """A paragraph. `urgent` ones are what a reader must see before the numbers."""

    text: str
    urgent: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and what its values are.

    `percent` values are fractions, `seconds` durations; `code` is text that was typed, such as names of jobs.
    """

    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table that sorts.

    Attributes:
        title: what it shows.
        columns: its columns.
        rows: a value for each column; None where there is none.
        long: folded on the page, and left out in Markdown.
    """

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Value]]
    long: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart that answers to the pointer.

    Attributes:
        title: what it shows.
        caption: how to read it.
        spec: a Vega-Lite specification whose data sets are named, and empty.
        data: its data sets by name, as columns of equal length; or for `curves`, see `curves.chart_data`.
        arms: what can be switched on and off: those which the column `g` of its data sets refers to.
        kind: what the script of the page has to do for it.
        logarithmic: axes that can be logarithmic, each with whether it is at first.
    """

    title: str
    caption: str
    spec: Mapping[str, Any]
    data: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]] = ()
    kind: Literal["curves", "table"] = "table"
    logarithmic: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """Text of a file, or a command."""

    title: str
    text: str


Part = Note | Table | Chart | Code


@dataclass(frozen=True)
class Section:
    """A section: a name for links, its title, and its parts in order."""

    name: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Report:
    """All that a page says.

    Attributes:
        title: the name of the folder.
        summary: in one line, how many jobs there are and how they stand.
        notes: what a reader must see first.
        sections: in the order of the page.
        running: whether jobs are running.
    """

    title: str
    summary: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    running: bool = False
