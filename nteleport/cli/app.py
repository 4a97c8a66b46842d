"""The command ``nteleport``: a group that knows its commands by name and imports one only when it is run.

Help, shell completion and ``--version`` never import a command's module: the one-line help of each command is
kept here, the rest in its module. All error exits are handled here too:

====================================  =========  ==============================================
event                                 exit code  output
====================================  =========  ==============================================
a job failed (``train``)              1          the grouped errors, and how to rerun the jobs
invalid command line or input         2          one message on stderr, no traceback
a signal stopped ``train``            128 + it   what is left; repeat the command to continue
Ctrl-C                                130        "interrupted"
the reader of the output has exited   141        nothing (as for any program in a pipe)
the output cannot be written          1          one message on stderr, if that is possible
====================================  =========  ==============================================
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from nteleport.cli.options import CONTEXT_SETTINGS, Failure
from nteleport.errors import NTeleportError, nearest

__all__ = ["COMMANDS", "LazyGroup", "nteleport"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
OUTPUT_LOST = 1


#: The commands and their one-line help. A command is in the module of its name, under its name.
COMMANDS: Mapping[str, str] = {
    "train": "Train every job of the experiment CONFIG.",
    "submit": "Submit every job of the experiment CONFIG to a SLURM cluster, as tasks of arrays.",
    "unravel": "Write each cell of the experiment CONFIG to a separate file.",
    "status": "Show the state of the jobs of a folder.",
    "collect": "Collect all epochs of all jobs of a folder into one table.",
    "compare": "Compare arms by paired runs: does teleporting help, and why?",
    "plot": "Draw mean curves and box plots of trained jobs.",
    "report": "Write one page about a folder of results, to share.",
    "inspect": "Show what a teleportation does to each parameter of MODEL.",
    "teleport": "Teleport the weights in CHECKPOINT into other weights of the same function.",
    "study": "Run one of the paper's studies: a table, a picture and the study.yml that runs it again.",
    "reproduce": "Check the claims of the paper: all of them, or those of some FIGUREs (4 to 11).",
    "completion": "Print the shell completion script.",
}


class LazyGroup(click.Group):
    """A click group that imports its commands on use; its `main` implements the exit codes above."""

    def __init__(self, *args: Any, lazy: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        command = getattr(importlib.import_module(f"nteleport.cli.{cmd_name}"), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"nteleport.cli.{cmd_name}.{cmd_name} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.lazy and not name.startswith("-") and not ctx.resilient_parsing:
            hint = nearest(name, self.lazy) or f": expected one of {', '.join(self.lazy)}"
            raise click.UsageError(f"no such command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lazy.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=line) for name, line in self.lazy.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "nteleport",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run; in `standalone_mode` always exit, with a code from the table in the module docstring."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            outcome = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except NTeleportError as error:
            _show_and_exit(Failure(str(error)))
        except click.ClickException as error:
            _show_and_exit(error)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(outcome if isinstance(outcome, int) else 0)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _output_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _output_errors():
            result = super().invoke(ctx)
            sys.stdout.flush()
        return result


@contextmanager
def _output_errors() -> Iterator[None]:
    """End the program when its output cannot be written; silently if its reader (``| head``) has exited."""
    try:
        yield
    except BrokenPipeError:
        _silence()
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        with suppress(OSError):
            click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
        _silence()
        sys.exit(OUTPUT_LOST)


def _silence() -> None:
    """Redirect both streams to the null device, or the interpreter would complain about them on exit."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_and_exit(error: click.ClickException) -> NoReturn:
    try:
        error.show()
    except OSError:
        _silence()
    sys.exit(error.exit_code)


@click.command(cls=LazyGroup, lazy=COMMANDS, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="nteleport", prog_name="nteleport")
def nteleport() -> None:
    """Neural teleportation: move a network's weights without changing its function, and train from there.

    Start with `nteleport train configs/quickstart.yml --out results/quickstart`.
    """
