"""A report that names no machine, no person and no folder, to be published."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from nteleport.page.parts import Chart, Code, Note, Part, Report, Section, Table

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"`<>]+", re.IGNORECASE)
_REMOTE = re.compile(r"[\w.+-]+@[\w.-]+:[^\s'\"`<>]+")
"""Of git or ssh: `git@host:path`."""

_ACCOUNT = re.compile(r"([\w.+-]+)@[\w.-]*\w")
_ROOT = r"(?:[A-Za-z]:[\\/]|\\\\|/|~[\w.-]*[\\/])"
_QUOTED_PATH = re.compile(rf"(?<=')({_ROOT}[^'\n]*)(?=')|(?<=\")({_ROOT}[^\"\n]*)(?=\")")
_PATH = re.compile(rf"(?<![\w.~/\\-]){_ROOT}[^\s'\"`,;:<>()\[\]{{}}|]*")
_HOME = re.compile(r"(?:[/\\](?:home|Users)[/\\]|(?<![\w~])~)([\w.-]*\w)", re.IGNORECASE)

_NOBODY = {"git", "root", "user"}
"""Accounts that are no person's."""


def without_names(report: Report, hosts: Iterable[str], places: Iterable[str] = ()) -> Report:
    """`report` with `machine 1`, `machine 2`, … for hosts, `user` for people, and the last part of paths.

    Paths are absolute ones, URLs and remotes of git, in commands, files and failure messages alike. People
    are those who own a home directory or an account that the report or `places` name, and whoever calls this.
    What an experiment calls its networks, data sets and files stays.

    Args:
        report: what is to be published.
        hosts: names of machines, in the order in which they are numbered.
        places: paths that may name people, such as that of the folder of results.
    """
    texts = [*places, *_texts(report)]
    people = {name for text in texts for found in (_HOME, _ACCOUNT) for name in found.findall(text)}
    people |= _caller()
    words = {name: "user" for name in people if name.lower() not in _NOBODY}
    for number, host in enumerate(dict.fromkeys(hosts), start=1):
        words |= {name: f"machine {number}" for name in (host, host.partition(".")[0]) if name}
    return _with_texts(report, lambda text: _replaced(_without_places(text), words))


def _caller() -> set[str]:
    try:
        return {getpass.getuser()}
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return set()


def _without_places(text: str) -> str:
    for pattern in (_URL, _REMOTE):
        text = pattern.sub(lambda match: _last(match[0]), text)
    text = _ACCOUNT.sub("user", text)
    for pattern in (_QUOTED_PATH, _PATH):
        text = pattern.sub(lambda match: _last(match[0]), text)
    return text


def _last(path: str) -> str:
    """The last part of a path; of a root, the root itself."""
    parts = [part for part in re.split(r"[/\\]", path.partition("?")[0]) if part]
    return parts[-1] if parts else path


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """`text` with other words for these, which end where letters and digits do."""
    if not words:
        return text
    longest_first = sorted(words, key=len, reverse=True)
    known = {name.lower(): word for name, word in words.items()}
    pattern = rf"(?<![^\W_])({'|'.join(map(re.escape, longest_first))})(?![^\W_])"
    return re.sub(pattern, lambda match: known[match[1].lower()], text, flags=re.IGNORECASE)


def _texts(report: Report) -> Iterator[str]:
    """Every text that `_with_texts` changes."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    _with_texts(report, collect)
    yield from found


def _with_texts(report: Report, change: Callable[[str], str]) -> Report:
    sections = [
        Section(each.name, each.title, tuple(_part(part, change) for part in each.parts))
        for each in report.sections
    ]
    notes = tuple(map(change, report.notes))
    return replace(report, title=change(report.title), notes=notes, sections=tuple(sections))


def _part(part: Part, change: Callable[[str], str]) -> Part:
    match part:
        case Note():
            return replace(part, text=change(part.text))
        case Table():
            columns = tuple(replace(each, title=change(each.title)) for each in part.columns)
            return replace(part, title=change(part.title), columns=columns, rows=_values(part.rows, change))
        case Chart():  # whose specification names columns, and has no text of a file
            return replace(
                part,
                title=change(part.title),
                caption=change(part.caption),
                data=_values(part.data, change),
                arms=_values(part.arms, change),
            )
        case Code():
            return replace(part, title=change(part.title), text=change(part.text))


def _values(content: Any, change: Callable[[str], str]) -> Any:
    match content:
        case str():
            return change(content)
        case list() | tuple():
            return [_values(each, change) for each in content]
        case Mapping():
            return {key: _values(each, change) for key, each in content.items()}
        case _:
            return content
