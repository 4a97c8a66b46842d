"""Lists as words: ``--group-by teleport optimizer`` is ``--group-by teleport --group-by optimizer``.

Which words belong to a list is decided before click parses, by one rule: all words up to the next option. The
one exception is a CONFIG or DIR that is given nowhere else. It may follow a list, as in ``--metrics lr
results/quickstart``: it is the last word after a list, never the only one, and exists or is written like a
path (``results/none``, ``none.yml``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import click

__all__ = ["repeat_list_options"]


@dataclass
class _Piece:
    """Some words of a command line: an option with its values, or one word that belongs to none."""

    words: list[str]
    is_list: bool = False
    is_option: bool = False
    name: str = ""
    detached: list[str] = field(default_factory=list)

    @property
    def spread(self) -> list[str]:
        """The words, the option repeated before each value of a list."""
        if not self.is_list:
            return self.words
        flag, *values = self.words
        return [*(word for value in values for word in (flag, value)), *self.detached]

    @property
    def may_end_in_a_path(self) -> bool:
        return self.is_list and len(self.words) > 2 and _like_a_path(self.words[-1])


def repeat_list_options(
    args: Sequence[str],
    parameters: Sequence[click.Parameter],
    *,
    is_list: Callable[[click.Parameter], bool],
    stand_ins: Collection[str],
    normalize: Callable[[str], str],
) -> list[str]:
    """`args` with each list option repeated before each of its words.

    Args:
        args: the words of a command line.
        parameters: of the command.
        is_list: whether words may follow an option.
        stand_ins: options, normalized, that are given instead of the positional argument.
        normalize: the canonical spelling of an option.
    """
    options = {
        normalize(name): parameter
        for parameter in parameters
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    end = args.index("--") if "--" in args else len(args)
    pieces = list(_pieces(args[:end], options, is_list, normalize))
    expected = sum(isinstance(parameter, click.Argument) for parameter in parameters)
    given = sum(not piece.is_option for piece in pieces) + len(args[end + 1 :])
    given += sum(piece.name in stand_ins for piece in pieces)
    for piece in reversed(pieces):
        if given < expected and piece.may_end_in_a_path:
            piece.detached.append(piece.words.pop())
            given += 1
    return [*(word for piece in pieces for word in piece.spread), *args[end:]]


def _pieces(
    args: Sequence[str],
    options: dict[str, click.Option],
    is_list: Callable[[click.Parameter], bool],
    normalize: Callable[[str], str],
) -> Iterator[_Piece]:
    position = 0
    while position < len(args):
        word = args[position]
        position += 1
        if not _is_option(word):
            yield _Piece([word])
            continue
        name = normalize(word.partition("=")[0])
        option = options.get(name)
        words = [word]
        if option is not None and not option.is_flag and not option.count and "=" not in word:
            words += args[position : position + option.nargs]
            position += option.nargs
            while is_list(option) and position < len(args) and not _is_option(args[position]):
                words.append(args[position])
                position += 1
        listed = option is not None and is_list(option) and len(words) > 1
        yield _Piece(words, is_list=listed, is_option=True, name=name)


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _like_a_path(word: str) -> bool:
    return os.sep in word or word.endswith((".yml", ".yaml")) or os.path.exists(word)
