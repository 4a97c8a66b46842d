"""``nteleport unravel``: one experiment file per cell of a matrix, for any job runner."""

from __future__ import annotations

from pathlib import Path

import click

from nteleport.cli.options import AliasedOption, Command, NamedPath, plugin_option

__all__ = ["unravel"]


@click.command(cls=Command)
@click.argument("config", type=NamedPath(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", "-o", cls=AliasedOption, aliases=("--output-dir", "--out-dir"), required=True,
    type=NamedPath(file_okay=False, path_type=Path), help="The folder for the files; created if missing.",
)  # fmt: skip
@click.option("--per-run", is_flag=True, help="One file per run, instead of one per cell with all its runs.")
@click.option(
    "--max-jobs", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
    help="Refuse a matrix with more jobs.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Replace a value of CONFIG, such as training_params.epochs=5; may be repeated.",
)  # fmt: skip
@plugin_option
def unravel(
    config: Path,
    out: Path,
    per_run: bool,
    overrides: tuple[str, ...],
    max_jobs: int,
    plugins: tuple[Path, ...],
) -> None:
    """Write each cell of the experiment CONFIG to a separate file.

    A file is named after its content, so names stay the same when the matrix is reordered or extended. Each
    can be run alone with `nteleport train FILE --out DIR`, in the same job folder as with the whole matrix.
    """
    from nteleport.experiment.experiment import load_experiment
    from nteleport.experiment.matrix import unravel as write_files

    paths = write_files(
        load_experiment(config, overrides=overrides), out, per_run=per_run, most_jobs=max_jobs
    )
    what = "run" if per_run else "cell"
    click.echo(f"{len(paths)} {what}{'s' if len(paths) != 1 else ''} of {config} written to {out}")
