"""``nteleport report``: one page about a folder of results, to share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nteleport.cli.compare import bands_of
from nteleport.cli.options import Command, Failure, NamedPath, every_option, list_option, out_file_option

__all__ = ["report"]

_HTML, _MARKDOWN = (".html", ".htm"), (".md",)


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=NamedPath(path_type=Path))
@out_file_option("Write here: .html or .md.  [default: DIR/report.html; Markdown goes to standard output]")
@click.option("--md", is_flag=True, help="Write Markdown, for a pull request: notes and tables.")
@click.option(
    "--baseline", metavar="ARM", help="What the other arms are compared with.  [default: no_teleport]"
)
@list_option(
    "--outcome",
    metavar="NAME...",
    aliases=("--outcomes",),
    help="What to compare, as for `nteleport compare`.  [default: test_accuracy]",
)
@list_option("--by", metavar="NAME...", help="What cells differ in, as for `nteleport compare`.")
@list_option(
    "--equivalent", metavar="OUTCOME=BAND...", help="What counts as equivalent, as for `nteleport compare`."
)
@click.option(
    "--experiment",
    metavar="CONFIG",
    type=NamedPath(path_type=Path, dir_okay=False),
    help="The experiment file of these jobs, to be shown.  [default: put together from the jobs]",
)
@click.option(
    "--anonymous",
    is_flag=True,
    help="Leave out hosts, people and folders of absolute paths, to publish the page.",
)
@click.option("--watch", is_flag=True, help="Serve the page on this machine, and refresh it while jobs run.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The port of --watch.  [default: a free one]"
)
@every_option(5.0)
def report(
    directory: Path,
    out: Path | None,
    md: bool,
    baseline: str | None,
    outcome: tuple[str, ...],
    by: tuple[str, ...],
    equivalent: tuple[str, ...],
    experiment: Path | None,
    anonymous: bool,
    watch: bool,
    port: int,
    every: float,
) -> None:
    """Write one page about a folder of results, to share.

    What was asked, how it ran, curves, tuned values, verdicts, certificates and how to run it again, in one
    HTML file that opens anywhere and asks no network for anything. DIR is the output folder of `nteleport
    train --out DIR`, and may be in use: with --watch the page is served on this machine only, until Ctrl-C.

    Needs `pip install 'nteleport[report]'`.

    \b
    nteleport report results/quickstart -o quickstart.html
    nteleport report results/quickstart --md --anonymous
    nteleport report results/quickstart --watch --port 8000
    """
    if out is not None and out.suffix not in (*_HTML, *_MARKDOWN):
        raise click.UsageError(f"cannot write {out}: expected a file that ends in .html or .md")
    if md and out is not None and out.suffix in _HTML:
        raise click.UsageError(f"--md writes Markdown: expected a file that ends in .md, not {out}")
    if watch and (md or out is not None):
        raise click.UsageError("--watch serves the page: expected it without --out and --md")
    options: dict[str, Any] = {
        "experiment": experiment,
        "anonymous": anonymous,
        "baseline": baseline,
        "outcomes": outcome,
        "by": by,
        "equivalent": bands_of(equivalent),
    }
    if watch:
        _serve(directory, port, every, options)
        return

    from nteleport.jobs.atomic import write_text_atomic
    from nteleport.page.html import as_html
    from nteleport.page.markdown import as_markdown
    from nteleport.page.report import read_report

    markdown = md or (out is not None and out.suffix in _MARKDOWN)
    found = read_report(directory, **options)
    text = as_markdown(found) if markdown else as_html(found)
    if markdown and out is None:
        click.echo(text, nl=False)
        return
    path = out or directory / "report.html"
    try:
        write_text_atomic(path, text)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error
    click.echo(f"{path}: {len(text.encode()) / 1e6:.1f} MB")


def _serve(directory: Path, port: int, every: float, options: dict[str, Any]) -> None:
    from nteleport.page.report import read_report
    from nteleport.page.server import HOST, Live, server

    read_report(directory, **options)  # what is wrong with the command is said here
    with server(Live(directory, every, **options), port) as serving:
        click.echo(f"http://{HOST}:{serving.server_address[1]}/  (Ctrl-C ends it)")
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            click.echo("ended", err=True)
