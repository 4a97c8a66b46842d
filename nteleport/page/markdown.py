"""A report as Markdown for a pull request: the notes and the short tables, without charts.

The only place where text becomes Markdown. Names stand in code spans, so that no character of theirs is
markup, mentions somebody or refers to an issue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nteleport.page.numbers import counted, in_words
from nteleport.page.parts import Code, Column, Note, Part, Report, Table, Value

_MOST_ROWS = 40
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&@:-])")
_NUMERIC = ("number", "percent", "seconds")


def as_markdown(report: Report) -> str:
    """The report."""
    lines = [f"# {_plain(report.title)}", "", _plain(report.summary), ""]
    lines += [f"> **Note:** {_plain(note)}\n" for note in report.notes]
    for section in report.sections:
        body = [block for part in section.parts for block in _part(part)]
        if body:
            lines += [f"## {_plain(section.title)}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def _part(part: Part) -> list[str]:
    match part:
        case Note():
            return [f"**{_plain(part.text)}**" if part.urgent else _plain(part.text), ""]
        case Table() if not part.long:
            return [f"### {_plain(part.title)}", "", *_table(part), ""]
        case Code():
            fence = _fence(part.text, 3)
            return ["<details><summary>" + _plain(part.title) + "</summary>", "", fence, part.text.rstrip(), fence, "", "</details>", ""]
        case _:
            return []


def _table(table: Table) -> list[str]:
    head = [_plain(column.title) for column in table.columns]
    rule = ["---:" if column.kind in _NUMERIC else "---" for column in table.columns]
    rows = [_cells(row, table.columns) for row in table.rows[:_MOST_ROWS]]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    left = len(table.rows) - _MOST_ROWS
    return [*lines, "", f"and {counted(left, 'further row')}"] if left > 0 else lines


def _cells(row: Sequence[Value], columns: Sequence[Column]) -> list[str]:
    return [
        _code(in_words(value, column.kind)) if column.kind == "code" else _plain(in_words(value, column.kind))
        for value, column in zip(row, columns, strict=True)
    ]


def _plain(text: str) -> str:
    """Text in which no character is markup, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span that is also safe in a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    if not line:
        return ""
    fence = _fence(line, 1)
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _fence(text: str, least: int) -> str:
    """More backticks than the text has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
