"""A report to be published: without what names machines, people and folders, as far as that can be told."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nteleport.page.parts import Chart, Code, Note, Part, Report, Section, Table

Change = Callable[[str], str]

_START = r"(?<![\w+.-])"
_URL = re.compile(rf"{_START}[a-z][a-z0-9+.-]*://[^\s'\"`<>]*", re.IGNORECASE)
_REMOTE = re.compile(rf"{_START}[\w.+-]+@[\w.-]+:([^\s'\"`<>]+)")
"""Of git or ssh: `git@host:path`."""

_ACCOUNT = re.compile(rf"{_START}[\w.+-]+@(?=[\w.-]*[^\W\d])[\w.-]*\w")

_DRIVE = r"(?:\\\\\?\\)?[A-Za-z]:[\\/]|\\\\"
_ROOT = rf"(?:{_DRIVE}|/|~[\w.-]*[\\/])"
_QUOTED_PATH = re.compile(
    rf"(?<='){_ROOT}(?:[^'\n]|'\"'\"')*|(?<=\"){_ROOT}[^\"\n]*|(?<=`){_ROOT}[^`\n]*|(?<=“){_ROOT}[^”\n]*"
)
_BARE_PATH = re.compile(
    rf"(?:(?<![\w.~/\\<-])|(?<=\s-[A-Za-z]))"
    rf"(?:(?:{_DRIVE})(?:[^\\/\s:'\"]+(?: [^\\/\s:'\"]+)*[\\/])*|~[\w.-]*[\\/]|/(?:\\ |[^\s/'\"`;<>|])+/)"
    rf"(?:\\ |[^\s'\"`;<>|])*"
)
"""Of two parts at least, where it starts with a slash."""

_OWNERS = (
    re.compile(r"[/\\](?:home\w*|users|u)[/\\]+(?:\.[/\\]+)?([^\W\d][\w.-]*\w)", re.IGNORECASE),
    re.compile(r"(?<![\w~])~([^\W\d][\w.-]*\w)[/\\]"),
    re.compile(r"\b(?:USER|LOGNAME|USERNAME)=([^\W\d][\w.-]*\w)"),
)
_NOBODY = {"git", "root", "user"}
"""Accounts that are no person's."""


def without_names(report: Report, hosts: Iterable[str], places: Iterable[Path] = ()) -> Report:
    """`report` with `machine 1`, `machine 2`, … for hosts, `user` for people, and the last part of paths.

    Paths are absolute ones, URLs and remotes of git, in commands, files and failure messages alike. People
    are whoever calls this, and the owners of home directories that the report or `places` name. What an
    experiment calls its networks, data sets and files stays, and so do machines that no job ran on, unless
    their names end in the domain of one that did.

    Args:
        report: what is to be published.
        hosts: names of machines, in the order in which they are numbered; the part before the first dot
            names a machine, too.
        places: folders and files whose paths may occur, spaces and all.
    """
    known = [*places, *(place.resolve() for place in places)]
    texts: list[str] = [str(place) for place in known]
    _with_texts(report, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
    places_of = _without_places(known)
    words_of = _without_words(_hosts(list(dict.fromkeys(hosts))) | _people(texts))
    return _with_texts(report, lambda text: words_of(places_of(text)))


def _people(texts: Iterable[str]) -> dict[str, str]:
    names = {name for text in texts for pattern in _OWNERS for name in pattern.findall(text)}
    with suppress(OSError, KeyError, ImportError):  # an account without a name, as in some containers
        names.add(getpass.getuser())
    return {name: "user" for name in names if name.lower() not in _NOBODY}


def _hosts(hosts: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    for number, host in enumerate(hosts, start=1):
        first, _, domain = host.partition(".")
        words[host] = f"machine {number}"
        if not host.replace(".", "").isdigit():
            words.setdefault(first, f"machine {number}")
        if "." in domain and not domain.replace(".", "").isdigit():
            words[f"*.{domain}"] = "a machine"
    return {name: word for name, word in words.items() if name}


def _without_words(words: Mapping[str, str]) -> Change:
    """Other words for these, which end where letters and digits do; `*.domain` is any name in a domain."""
    if not words:
        return lambda text: text
    known = {name.lower(): word for name, word in words.items()}
    longest_first = sorted(words, key=lambda name: (name.startswith("*"), -len(name)))
    forms = (re.escape(name).replace(r"\*", r"[\w-]+(?:\.[\w-]+)*") for name in longest_first)
    pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(forms)})(?![^\W_])", re.IGNORECASE)
    return lambda text: pattern.sub(lambda match: known.get(match[0].lower(), "a machine"), text)


def _without_places(places: Iterable[Path]) -> Change:
    """Without the folders of paths, known ones first: those may hold spaces."""
    folders = {f"{place.parent}/" for place in places if place.is_absolute() and len(place.parts) > 2}
    longest_first = sorted(folders, key=len, reverse=True)

    def change(text: str) -> str:
        for folder in longest_first:
            text = text.replace(folder, "")
        text = _URL.sub(lambda match: _last_of_url(match[0]), text)
        text = _REMOTE.sub(lambda match: _last(match[1]), text)
        text = _ACCOUNT.sub("user", text)
        text = _QUOTED_PATH.sub(lambda match: _last(match[0]), text)
        return _BARE_PATH.sub(lambda match: _last(match[0]), text)

    return change


def _last_of_url(url: str) -> str:
    """The last part of its path. Without a path only a host is left, and perhaps a password."""
    path = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0].partition("/")[2]
    return _last(path) if path else "URL"


def _last(path: str) -> str:
    """The last part of a path; of a root, the root itself."""
    parts = [part for part in re.split(r"/|\\(?! )", path) if part]
    return parts[-1] if parts else path


def _with_texts(report: Report, change: Change) -> Report:
    sections = [
        Section(each.name, each.title, tuple(_part(part, change) for part in each.parts))
        for each in report.sections
    ]
    notes = tuple(map(change, report.notes))
    return replace(report, title=change(report.title), notes=notes, sections=tuple(sections))


def _part(part: Part, change: Change) -> Part:
    match part:
        case Note():
            return replace(part, text=change(part.text))
        case Table():
            return replace(part, title=change(part.title), rows=_values(part.rows, change))
        case Chart():
            arms = [{**arm, "label": change(str(arm["label"]))} for arm in part.arms]
            title, data = change(part.title), _values(part.data, change)
            return replace(part, title=title, caption=change(part.caption), data=data, arms=arms)
        case Code():
            return replace(part, title=change(part.title), text=change(part.text))


def _values(content: Any, change: Change) -> Any:
    match content:
        case str():
            return change(content)
        case list() | tuple():
            return [_values(each, change) for each in content]
        case Mapping():
            return {key: _values(each, change) for key, each in content.items()}
        case _:
            return content
