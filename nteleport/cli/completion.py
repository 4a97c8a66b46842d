"""``nteleport completion``: print the script that lets a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nteleport.cli.options import Command

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell completion script.

    \b
    bash:  echo 'eval "$(nteleport completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(nteleport completion zsh)"' >> ~/.zshrc
    fish:  nteleport completion fish > ~/.config/fish/completions/nteleport.fish
    """
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise click.UsageError(f"this version of click has no completion for {shell}", ctx)
    click.echo(shell_class(ctx.find_root().command, {}, "nteleport", "_NTELEPORT_COMPLETE").source())
