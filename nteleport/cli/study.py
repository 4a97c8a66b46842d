"""``nteleport study NAME``: run one of the paper's studies. Its options come from its settings class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from nteleport.cli.app import LazyGroup
from nteleport.cli.options import CONTEXT_SETTINGS, PLUGIN, AliasedOption, Command, plugin_option
from nteleport.errors import StudyError
from nteleport.schema.fields import Option, Refused, options_of
from nteleport.schema.yaml_source import Mark, Node, Problems, parse_yaml
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import STUDIES, Progress, Study, find_study, load_study, run_study

__all__ = ["progress_bar", "study"]


class StudyGroup(LazyGroup):
    """Builds the command of a study when it is requested."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command_of(find_study(cmd_name)) if cmd_name in STUDIES else None


@click.group(
    cls=StudyGroup, lazy={name: find_study(name).summary for name in STUDIES},
    context_settings=CONTEXT_SETTINGS, invoke_without_command=True, no_args_is_help=True,
)  # fmt: skip
@click.option(
    "--from", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Run again what a study.yml describes, instead of naming a study.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="With --from: the output folder."
)
@plugin_option
@click.pass_context
def study(ctx: click.Context, source: Path | None, out: Path | None, plugins: tuple[Path, ...]) -> None:
    """Run one of the paper's studies: a table, a picture and the study.yml that runs it again."""
    if ctx.invoked_subcommand is not None:
        if source is not None or out is not None or plugins:
            message = "give --from, --out and --plugin without a study's name, or --out and --plugin after it"
            raise click.UsageError(message, ctx)
        return
    if source is None:
        raise click.UsageError("expected the name of a study, or --from study.yml", ctx)
    chosen, settings = load_study(source)
    _run(chosen, settings, out or source.parent)


def _command_of(chosen: Study) -> click.Command:
    options = options_of(chosen.settings)
    out = click.Option(
        ["--out", "-o"], type=click.Path(file_okay=False, path_type=Path),
        default=Path("results") / chosen.name, show_default=True,
        help="The folder for table, picture and study.yml; created if missing.",
    )  # fmt: skip
    parameters = [_click_option(name, each, default) for name, (each, default) in options.items()]

    def run(out: Path, plugins: tuple[Path, ...], **given: Any) -> None:
        values = {name: value for name, value in given.items() if value is not None and value != ()}
        _run(chosen, chosen.settings(**values), out)

    return Command(
        chosen.name,
        params=[*parameters, click.Option(["--plugin", "plugins"], **PLUGIN), out],
        callback=run,
        short_help=chosen.summary,
        help=chosen.settings.__doc__,
    )


def _click_option(name: str, each: Option, default: Any) -> click.Option:
    flag = each.flag or name.replace("_", "-")
    if each.is_switch:
        return click.Option(
            [f"--{flag}/--no-{flag}", name], default=None, help=f"{each.help} [default: {default}]"
        )
    shown = ",".join(_shown(item) for item in default) if isinstance(default, tuple) else _shown(default)
    hint = f" [default: {shown}]" if shown else ""
    return AliasedOption(
        [f"--{flag}", name], metavar=each.metavar, help=each.help + hint, multiple=each.several,
        callback=_checked(each),
    )  # fmt: skip


def _shown(value: Any) -> str:
    return "" if value is None else str(getattr(value, "label", value))


def _checked(each: Option) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that checks the text of an option like the entry of a `study.yml`."""

    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        nodes = [node for text in value for node in _items(text)] if each.several else [_node(value)]
        if not nodes:
            raise click.BadParameter("an empty list, expected at least one value", ctx, parameter)
        try:
            checked = tuple(each.check(node) for node in nodes)
        except Refused as refusal:
            raise click.BadParameter(str(refusal), ctx, parameter) from refusal
        return checked if each.several else checked[0]

    return check


def _items(text: str) -> list[Node]:
    """`a,b` and `[a, b]` are two values, `{cls: mlp, hidden_layers: [10, 10]}` is one."""
    node = _node(text if text.lstrip().startswith("[") else f"[{text}]")
    return node.value if isinstance(node.value, list) else [node]


def _node(text: str) -> Node:
    problems = Problems()
    node = parse_yaml(text, Mark("the option"), problems)
    if problems:
        raise click.BadParameter(problems[0].message)
    return node or Node(None, Mark("the option"))


def _run(chosen: Study, settings: StudySettings, out: Path) -> None:
    try:
        with progress_bar(chosen.name) as progress:
            written = run_study(chosen, settings, out, progress=progress)
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {error}") from error
    for path in written:
        click.echo(path)


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(desc=name, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
