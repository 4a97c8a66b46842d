"""Shared by all commands: the spelling of options, lists as values, and how errors end a command.

- ``Command``: long options may be written with underscores (``--group_by`` is ``--group-by``), and an
  ``NTeleportError`` becomes one message on stderr and exit code 2, never a traceback.
- ``list_option``: a list is separated by commas or by spaces, or the option is repeated, or all of these.
- ``NamedPath``: a path that is not empty.
- ``plugin_option``: files of the user's whose names a command may refer to.
- ``out_file_option``, ``every_option``: ``--out FILE`` and ``--every SECONDS``.
- ``AliasedOption``: older names of an option that are accepted but not shown in the help.

A command is ``@click.command(cls=Command)``; a group passes ``context_settings=CONTEXT_SETTINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from nteleport.cli.words import repeat_list_options
from nteleport.errors import NTeleportError
from nteleport.plugins import admit

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def normalize_token(token: str) -> str:
    """The canonical spelling of an option, choice or command name: dashes for underscores."""
    return token.replace("_", "-")


CONTEXT_SETTINGS: dict[str, Any] = {
    "token_normalize_func": normalize_token,
    "help_option_names": ["-h", "--help"],
}


class Failure(click.ClickException):
    """An error in the user's input: its message on stderr, exit code 2."""

    exit_code = 2


class Command(click.Command):
    """A click command with this project's spelling of options and its reporting of errors.

    Args:
        stand_ins: options that can be given instead of the positional argument.
    """

    def __init__(self, *args: Any, stand_ins: tuple[str, ...] = (), **kwargs: Any) -> None:
        kwargs["context_settings"] = CONTEXT_SETTINGS | (kwargs.get("context_settings") or {})
        super().__init__(*args, **kwargs)
        self.stand_ins = stand_ins

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = repeat_list_options(
            args, self.params, is_list=_is_list, stand_ins=self.stand_ins, normalize=normalize_token
        )
        return super().parse_args(ctx, words)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NTeleportError as error:
            raise Failure(str(error)) from error


class NamedPath(click.Path):
    """A path that is not empty: `--out "$OUT"` without an OUT must not fill the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty path, expected a name", param, ctx)
        return super().convert(value, param, ctx)


class CommaList(click.ParamType):  # type: ignore[type-arg]  # subscriptable only since click 8.4
    """A comma-separated list; each item is converted by `item_type`. Empty items are dropped."""

    def __init__(self, item_type: Any = click.STRING) -> None:
        self.item_type = click.types.convert_type(item_type)
        self.name = "list" if self.item_type is click.STRING else f"{self.item_type.name} list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        pieces = value.split(",") if isinstance(value, str) else value
        stripped = [piece.strip() if isinstance(piece, str) else piece for piece in pieces]
        items = tuple(self.item_type.convert(piece, param, ctx) for piece in stripped if piece != "")
        if not items:
            self.fail("expected one or more values separated by commas", param, ctx)
        return items


class AliasedOption(click.Option):
    """An option with further names, `aliases`, that parse like the first ones but are not in the help."""

    def __init__(self, param_decls: Any = None, *, aliases: tuple[str, ...] = (), **attrs: Any) -> None:
        super().__init__(param_decls, **attrs)
        self.shown = list(self.opts)
        self.opts += [alias for alias in aliases if alias not in self.opts]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every = self.opts
        self.opts = self.shown
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def _is_list(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, CommaList)


def list_option(
    *names: str, item_type: Any = click.STRING, aliases: tuple[str, ...] = (), **attrs: Any
) -> Callable[[_Decorated], _Decorated]:
    """An option whose value is a flat tuple: ``--x a,b c --x d`` gives ``("a", "b", "c", "d")``.

    Without the option it is empty.
    """

    def flatten(ctx: click.Context, param: click.Parameter, value: Any) -> tuple[Any, ...]:
        return tuple(item for items in value or () for item in items)

    return click.option(
        *names,
        cls=AliasedOption,
        aliases=aliases,
        type=CommaList(item_type),
        multiple=True,
        callback=flatten,
        **attrs,
    )


def out_file_option(what: str) -> Callable[[_Decorated], _Decorated]:
    """``--out`` for the file to write, as the argument ``out``; ``what`` is its help."""
    file = NamedPath(path_type=Path, dir_okay=False)
    return click.option("--out", "-o", metavar="FILE", type=file, help=what)


def every_option(seconds: float) -> Callable[[_Decorated], _Decorated]:
    """``--every``, with its default, for a command that has ``--watch``."""
    return click.option(
        "--every",
        metavar="SECONDS",
        type=click.FloatRange(min=0.1),
        default=seconds,
        show_default=True,
        help="Refresh interval of --watch.",
    )


def _admit(ctx: click.Context, param: click.Parameter, value: Sequence[Path]) -> tuple[Path, ...]:
    try:
        return tuple(plugin.path for plugin in admit(value))
    except NTeleportError as error:
        raise Failure(str(error)) from error


PLUGIN: dict[str, Any] = {
    "multiple": True,
    "metavar": "FILE.py",
    "type": NamedPath(path_type=Path),
    "is_eager": True,  # before other options, whose values may refer to it
    "callback": _admit,
    "help": "Admit a Python file of yours, which is run: `my_nets:SmallNet` is then SmallNet in my_nets.py; "
    "may be repeated.",
}
"""The declaration of ``--plugin``; its value is the absolute paths of the files, which it admits."""


def plugin_option(command: _Decorated) -> _Decorated:
    """Add ``--plugin`` to a command, as its argument ``plugins``."""
    return click.option("--plugin", "plugins", **PLUGIN)(command)
