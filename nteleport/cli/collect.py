"""``nteleport collect``: all epochs of all jobs as one table."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from nteleport.cli.options import Command, Failure, NamedPath, out_file_option

__all__ = ["collect"]


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=NamedPath(path_type=Path))
@out_file_option(
    "Write here: .csv, or .parquet where pyarrow is installed.  [default: CSV on standard output]"
)
def collect(directory: Path, out: Path | None) -> None:
    """Collect all epochs of all jobs of a folder into one table.

    One row per epoch, with the hyper-parameters as columns. DIR is the --out of `nteleport train`, a folder
    with several of them, or one with results of the published implementation. Unfinished jobs are included as
    far as they are trained; see the column `state`.

    \b
    nteleport collect results/quickstart --out quickstart.csv
    """
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"cannot write {out}: expected a file that ends in .csv or .parquet")
    if out is not None and out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise click.UsageError(f"cannot write {out}: Parquet needs pyarrow (pip install pyarrow)")

    from nteleport.jobs.atomic import replacing
    from nteleport.jobs.table import epochs_table, read_results

    results = read_results(directory)
    damaged = [f"{job.name}: {', '.join(job.problems)}" for job in results.jobs if job.problems]
    for warning in [*(f"left out {reason}" for reason in results.skipped), *damaged]:
        click.echo(f"warning: {warning}", err=True)
    table = epochs_table(results)
    if out is None:
        table.to_csv(sys.stdout, index=False)
        return
    try:
        with replacing(out) as temporary:
            if out.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                table.to_parquet(temporary, index=False)
    except OSError as error:
        raise Failure(f"cannot write {out}: {error.strerror or error}") from error
    click.echo(f"{out}: {len(table)} epochs of {table['job'].nunique()} jobs")
