"""``nteleport plot``: draw a folder of results."""

from __future__ import annotations

from pathlib import Path

import click

from nteleport.cli.options import AliasedOption, Command, NamedPath, list_option

__all__ = ["plot"]

_FOLDER = NamedPath(path_type=Path)


@click.command(cls=Command, stand_ins=("--experiment-dir",))
@click.argument("directory", metavar="[DIR]", required=False, type=_FOLDER)
@click.option("--experiment-dir", metavar="DIR", type=_FOLDER, help="The same as DIR.")
@list_option(
    "--metrics",
    metavar="NAME...",
    aliases=("--metric",),
    help="Columns of metrics.csv to draw.  [default: val_accuracy,train_loss]",
)
@list_option(
    "--group-by",
    metavar="NAME...",
    help="What distinguishes groups: hyper-parameters such as optimizer.lr, or whole parts: teleport, "
    "optimizer, model, initializer, dataset, lr_scheduler, training.  "
    "[default: teleport, and everything that differs]",
)
@click.option("--boxplot", is_flag=True, help="Also draw box plots.")
@list_option(
    "--box-epochs",
    item_type=click.IntRange(min=0),
    metavar="N...",
    help="Epochs of the box plots, counted from 0.  [default: an early, a middle and the last epoch]",
)
@click.option(
    "--band",
    type=click.Choice(["std", "minmax", "none"]),
    default="std",
    show_default=True,
    help="The band around mean curves: one standard deviation, the lowest to the highest run, or none.",
)
@click.option(
    "--legend-pos",
    metavar="PLACE",
    help="Put the legend inside the axes, at one of matplotlib's places such as 'lower right' or best.  "
    "[default: below the axes]",
)
@click.option(
    "--curve",
    metavar="KEY",
    help="Draw the scores of tuning against a tuned key, such as optimizer.lr, instead of epochs.",
)
@click.option(
    "--out-dir",
    cls=AliasedOption,
    aliases=("--output-dir",),
    type=_FOLDER,
    help="The folder for the pictures.  [default: DIR/plots]",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["png", "pdf", "svg"]),
    default="png",
    show_default=True,
    help="Format of the pictures.",
)
def plot(
    directory: Path | None,
    experiment_dir: Path | None,
    metrics: tuple[str, ...],
    group_by: tuple[str, ...],
    boxplot: bool,
    box_epochs: tuple[int, ...],
    band: str,
    legend_pos: str | None,
    curve: str | None,
    out_dir: Path | None,
    fmt: str,
) -> None:
    """Draw mean curves and box plots of trained jobs.

    DIR is the output folder of `nteleport train --out DIR`, a folder with several of them, or one with
    results of the published implementation. Lists are separated by spaces or commas.

    Each combination of data set, model and metric gets its own picture, and beside it a CSV file with the
    numbers shown. Unfinished and missing jobs are named in a warning.

    With --curve, DIR is that of an experiment with a section `tune`: one picture of the score against the
    values of a tuned key, with the chosen values and the width of the good range.

    \b
    nteleport plot results/quickstart
    nteleport plot results/quickstart --metrics val_accuracy --group-by teleport optimizer.lr \\
        --boxplot --box-epochs 30 60 95 --format pdf
    """
    if directory and experiment_dir and directory != experiment_dir:
        raise click.UsageError(f"two folders of results: {directory} and {experiment_dir}; expected one")
    folder = directory or experiment_dir
    if folder is None:
        raise click.UsageError("missing DIR: expected the folder given as --out to `nteleport train`")

    if curve is not None and (metrics or group_by or boxplot or box_epochs or legend_pos):
        raise click.UsageError("--curve draws a picture of its own: expected only --out-dir and --format")

    from nteleport.plots.report import METRICS, plot_results, plot_sweep

    if curve is not None:
        report = plot_sweep(folder, curve, out_dir=out_dir, fmt=fmt)
    else:
        report = plot_results(
            folder,
            metrics=metrics or METRICS,
            group_by=group_by or None,
            boxplot=boxplot or bool(box_epochs),
            box_epochs=box_epochs or None,
            out_dir=out_dir,
            fmt=fmt,
            band=band,
            legend_pos=legend_pos,
        )
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    for path in report.files:
        click.echo(path)
