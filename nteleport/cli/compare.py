"""``nteleport compare``: arms compared by paired runs."""

from __future__ import annotations

from pathlib import Path

import click

from nteleport.cli.options import Command, Failure, NamedPath, list_option, out_file_option

__all__ = ["compare"]

_FORMATS = ("md", "csv", "json")


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=NamedPath(path_type=Path))
@click.option(
    "--baseline",
    metavar="ARM",
    default="no_teleport",
    show_default=True,
    help="What the other arms are compared with: a mode, or the label of an arm.",
)
@list_option(
    "--outcome",
    metavar="NAME...",
    aliases=("--outcomes",),
    help="What to compare, the primary outcome first: test_accuracy and other scores, seconds, "
    "seconds_to:ACCURACY, epochs_to:ACCURACY, divergences, lr_width.  [default: test_accuracy]",
)
@list_option(
    "--by",
    metavar="NAME...",
    help="What cells differ in, as for `plot --group-by`.  [default: dataset,model,initializer,optimizer]",
)
@list_option(
    "--equivalent",
    metavar="OUTCOME=BAND...",
    help="How far apart counts as equivalent: test_accuracy=0.5 is half a point, seconds_to=5% a share of "
    "the baseline.  [default: 0.5 points, 5% of a time]",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(_FORMATS),
    help="Format of the table.  [default: that of FILE, or md]",
)
@out_file_option("Write the table here: .md, .csv or .json.  [default: standard output]")
@click.option(
    "--out-dir",
    metavar="DIR",
    type=NamedPath(path_type=Path),
    help="The folder for the pictures.  [default: DIR/plots]",
)
@click.option("--no-plots", is_flag=True, help="Draw no pictures.")
def compare(
    directory: Path,
    baseline: str,
    outcome: tuple[str, ...],
    by: tuple[str, ...],
    equivalent: tuple[str, ...],
    fmt: str | None,
    out: Path | None,
    out_dir: Path | None,
    no_plots: bool,
) -> None:
    """Compare arms by paired runs: does teleporting help, and why?

    DIR is the output folder of `nteleport train --out DIR`. Runs with the same seed form pairs. For each
    cell, arm and outcome: mean difference, t interval, sign-flip test, Holm's correction over the arms of the
    primary outcome, tests of equivalence, and a verdict in words. What a reader must know is said first. A
    forest plot and the pairs are drawn for each outcome.

    \b
    nteleport compare results/digits --outcome test_accuracy,seconds_to:0.9
    nteleport compare results/digits --equivalent test_accuracy=0.3 -o digits.json
    """
    chosen = _format(fmt, out)
    bands = bands_of(equivalent)

    from nteleport.comparison import compare as compare_arms
    from nteleport.comparison.tables import FORMATS
    from nteleport.jobs.atomic import write_text_atomic
    from nteleport.jobs.table import read_results
    from nteleport.jobs.tuning import read_tuning

    results = read_results(directory)
    comparison = compare_arms(
        results,
        baseline=baseline,
        outcomes=outcome or ("test_accuracy",),
        by=by or None,
        equivalent=bands,
        tuning=read_tuning(directory),
    )
    text = FORMATS[chosen](comparison)
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            write_text_atomic(out, text)
        except OSError as error:
            raise Failure(f"cannot write {out}: {error.strerror or error}") from error
    if chosen != "md" or out is not None:
        for note in comparison.notes:
            click.echo(f"warning: {note}", err=True)
    if not no_plots:
        from nteleport.comparison.pictures import write_pictures

        for path in write_pictures(comparison, out_dir or directory / "plots"):
            click.echo(path, err=True)


def _format(fmt: str | None, out: Path | None) -> str:
    ending = out.suffix[1:] if out is not None else ""
    if out is not None and ending not in _FORMATS:
        raise click.UsageError(f"cannot write {out}: expected a file that ends in .md, .csv or .json")
    if fmt is not None and ending and fmt != ending:
        raise click.UsageError(f"--format {fmt} and a file that ends in .{ending}: expected one format")
    return fmt or ending or "md"


def bands_of(words: tuple[str, ...]) -> dict[str, str]:
    """The bands of equivalence in `--equivalent OUTCOME=BAND`, by outcome."""
    bands = {}
    for word in words:
        name, equals, band = word.partition("=")
        if not equals or not band:
            raise click.UsageError(
                f"--equivalent {word}: expected OUTCOME=BAND, such as test_accuracy=0.5 or seconds_to=5%"
            )
        bands[name.strip()] = band
    return bands
