"""``nteleport inspect``: what a teleportation does to each parameter of a network, and why."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from nteleport.cli.options import Command
from nteleport.data.catalog import DATASETS, dataset_info
from nteleport.vocabulary import MODEL_NAMES, canonical_name

if TYPE_CHECKING:
    from nteleport.core.quiver import Quiver, ReportRow

__all__ = ["inspect"]

COLUMNS = ("parameter", "status", "reason", "shape")
MOST_SIZES = 8  # of layers, in one line
COLORS = {"teleported": "green", "tied": "yellow", "untouched": "red"}


class NameType(click.ParamType):  # type: ignore[type-arg]  # subscriptable only since click 8.4
    """A name that the shell can complete; the command itself checks it, with the message of the library."""

    def __init__(self, name: str, choices: Iterable[str]) -> None:
        self.name = name
        self.choices = tuple(choices)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete.lower())]


@click.command(cls=Command)
@click.argument("model", type=NameType("model", MODEL_NAMES))
@click.option(
    "--dataset", type=NameType("name", DATASETS), default="cifar10", show_default=True,
    help="The data set that gives the size of the input and the number of classes; its files are not read.",
)  # fmt: skip
@click.option(
    "--image-size", type=click.IntRange(min=1), metavar="PIXELS",
    help="Height and width of the images, if MODEL needs a different size than that of the data set.",
)  # fmt: skip
@click.option(
    "--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the table to this file; - writes it to standard output instead of the report.",
)  # fmt: skip
@click.option(
    "--graph", "graph_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the layers, their connections and entries into this file: svg, pdf or png.",
)  # fmt: skip
def inspect(
    model: str, dataset: str, image_size: int | None, csv_file: Path | None, graph_file: Path | None
) -> None:
    """Show what a teleportation does to each parameter of MODEL.

    A parameter is teleported, tied (a weight used twice) or untouched, each with the reason. MODEL is `mlp`
    or a torchvision classifier, such as resnet18, vgg16_bn or densenet121.
    """
    if graph_file is not None:
        from nteleport.plots.graph import check_suffix

        check_suffix(graph_file)
    name, info = canonical_name(model), dataset_info(dataset)
    channels, height, width = info.input_shape
    shape = (channels, image_size or height, image_size or width)
    quiver = _analyze(name, shape, info.num_classes, graph_file)
    rows = quiver.report()
    if csv_file is not None:
        _write_csv(rows, csv_file)
    if csv_file != Path("-"):
        _print_table(rows)
        click.echo()
        for line in summary(quiver, rows):
            click.echo(line)


def _analyze(
    model: str, input_shape: tuple[int, int, int], num_classes: int, graph_file: Path | None
) -> Quiver:
    import torch

    from nteleport.core.analysis import analyze
    from nteleport.networks.models import build_model

    network = build_model(model, input_shape=input_shape, num_classes=num_classes)
    images = torch.zeros(2, *input_shape)
    quiver = analyze(network, images)
    if graph_file is not None:
        from nteleport.core.layer_graph import layer_graph
        from nteleport.plots.graph import write_graph

        graph = layer_graph(network, images, quiver)
        write_graph(graph_file, graph.edges, graph.ranks(), graph.entries, graph.tied)
    return quiver


def cells(row: ReportRow) -> tuple[str, str, str, str]:
    """A row of the report as text, in the order of `COLUMNS`."""
    return row.name, row.status, row.reason, "x".join(map(str, row.shape)) or "scalar"


def _write_csv(rows: Sequence[ReportRow], path: Path) -> None:
    from nteleport.jobs.atomic import write_text_atomic

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(cells(row) for row in rows)
    if path == Path("-"):
        sys.stdout.write(buffer.getvalue())
        return
    try:
        write_text_atomic(path, buffer.getvalue())
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from error


def _print_table(rows: Sequence[ReportRow]) -> None:
    table = [COLUMNS, *(cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        padded[1] = click.style(padded[1], fg=COLORS.get(row[1]))
        click.echo("  ".join(padded).rstrip())


def summary(quiver: Quiver, rows: Sequence[ReportRow]) -> list[str]:
    """The change of basis, its layers and the fraction of the weights it moves, one line each."""
    entries = f"{quiver.cob_size:,} entries in {len(quiver.layers)} layers"
    lines = [f"change of basis  {entries}: {_layer_sizes(quiver)}"]
    total = sum(_weights(row) for row in rows)
    for status in COLORS:
        chosen = [row for row in rows if row.status == status]
        weights = sum(_weights(row) for row in chosen)
        share = f"{weights / total:.1%}" if total else "-"
        lines.append(
            f"{status:15}  {len(chosen)} of {len(rows)} tensors, {weights:,} of {total:,} weights, {share}"
        )
    return lines


def _layer_sizes(quiver: Quiver) -> str:
    """The number of layers per number of entries, as `5 × 500`; only the extremes if that would be long."""
    counts = sorted(Counter(layer.size for layer in quiver.layers).items())
    if len(counts) > MOST_SIZES:
        return f"from {counts[0][0]:,} to {counts[-1][0]:,} each"
    return ", ".join(f"{count} × {size:,}" for size, count in counts) or "nothing can be teleported"


def _weights(row: ReportRow) -> int:
    return math.prod(row.shape)
