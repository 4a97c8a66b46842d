"""``nteleport inspect``: what a teleportation does to each parameter of a network, and why."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nteleport.cli.network import NetworkChoice, model_type, network_choice, network_options, norms_option
from nteleport.cli.options import Command

if TYPE_CHECKING:
    from nteleport.core.quiver import Activations, Layer, Norms, Quiver, ReportRow

__all__ = ["inspect"]

COLUMNS = ("parameter", "status", "reason", "shape")
MOST_SIZES = 8  # of layers, in one line
COLORS = {"teleported": "green", "tied": "yellow", "untouched": "red"}


@click.command(cls=Command)
@click.argument("subject", metavar="MODEL|CHECKPOINT", type=model_type)
@click.option("--model", type=model_type, help="The network that the weights in CHECKPOINT belong to.")
@network_options("its files are not read")
@click.option(
    "--activations",
    type=click.Choice(["conjugated", "kept"]),
    help="Teleport as in the paper, or so that nothing but weights changes.  "
    "[default: kept for a CHECKPOINT, otherwise conjugated]",
)
@norms_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Write everything, with the groups of neurons that each axis of each parameter shares, as JSON to "
    "standard output instead of the report.",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the table to this file; - writes it to standard output instead of the report.",
)
@click.option(
    "--graph",
    "graph_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the layers, their connections and entries into this file: svg, pdf or png.",
)
def inspect(
    subject: str,
    model: str | None,
    model_args: tuple[str, ...],
    dataset: str | None,
    input_shape: tuple[int, ...],
    image_size: int | None,
    plugins: tuple[Path, ...],
    activations: Activations | None,
    norms: Norms,
    as_json: bool,
    csv_file: Path | None,
    graph_file: Path | None,
) -> None:
    """Show what a teleportation does to each parameter of MODEL.

    A parameter is teleported, tied (a weight used twice) or untouched, each with the reason. MODEL is `mlp`,
    `cnn`, `vit`, a torchvision classifier, such as resnet18, vgg16_bn or densenet121, timm:NAME, hf:NAME,
    MODULE:CLASS of a --plugin, or FILE.py:CLASS, a class of your own; FILE.py is run. With --model, the file
    of weights CHECKPOINT is checked to fit that network.
    """
    if as_json and csv_file == Path("-"):
        raise click.UsageError("--json and --csv - both write to standard output: give one of them")
    if graph_file is not None:
        from nteleport.plots.graph import check_suffix

        check_suffix(graph_file)
    if model is None and ".py" not in subject and Path(subject).is_file():
        raise click.UsageError(f"{subject} is a file of weights: --model says which network they belong to")
    choice = network_choice(model or subject, model_args, dataset, input_shape, image_size)
    checkpoint = Path(subject) if model else None
    activations = activations or ("kept" if model else "conjugated")
    quiver = _analyze(choice, checkpoint, activations, norms, graph_file)
    rows = quiver.report()
    if csv_file is not None:
        _write_csv(rows, csv_file)
    if as_json:
        click.echo(json.dumps(plain(quiver, rows), indent=2))
    elif csv_file != Path("-"):
        _print_table(rows)
        click.echo()
        if quiver.activations == "kept":
            for line in [*free_entries(quiver), "", *lost_entries(quiver), *moved_buffers(quiver)]:
                click.echo(line)
            click.echo()
        for line in summary(quiver, rows):
            click.echo(line)


def _analyze(
    choice: NetworkChoice,
    checkpoint: Path | None,
    activations: Activations,
    norms: Norms,
    graph_file: Path | None,
) -> Quiver:
    if norms == "up_to_eps" and activations == "conjugated":
        raise click.UsageError("--norms up_to_eps needs --activations kept")

    from nteleport.core.analysis import analyze

    network = choice.build()
    if checkpoint is not None:
        from nteleport.checkpoints.files import read_checkpoint
        from nteleport.checkpoints.fitting import load_into

        load_into(network, read_checkpoint(checkpoint))
    inputs = choice.inputs("inputs")
    quiver = analyze(network, inputs, activations=activations, norms=norms)
    if graph_file is not None:
        from nteleport.core.layer_graph import layer_graph
        from nteleport.plots.graph import write_graph

        graph = layer_graph(network, inputs, quiver)
        write_graph(graph_file, graph.edges, graph.ranks(), graph.entries, graph.tied)
    return quiver


def plain(quiver: Quiver, rows: Sequence[ReportRow]) -> dict[str, object]:
    """All that is known, as plain data: ``axes`` is ``Quiver.axes``."""
    return {
        "activations": quiver.activations,
        "cob_size": quiver.cob_size,
        "layers": [
            {"name": layer.name, "start": layer.start, "size": layer.size, "admits": words}
            for layer, words in _admitted(quiver)
        ],
        "lost": [lost._asdict() for lost in quiver.lost],
        "parameters": [row._asdict() for row in rows],
        "axes": quiver.axes(),
        **({"norms": quiver.norms, "buffers": sorted(quiver.buffers)} if quiver.norms == "up_to_eps" else {}),
    }


def free_entries(quiver: Quiver) -> list[str]:
    """How many entries each layer has and what they may be, one line each."""
    width = max((len(layer.name) for layer in quiver.layers), default=0)
    lines = [
        f"{layer.name:{width}}  {', '.join(f'{count:,} {word}' for word, count in words.items())}"
        for layer, words in _admitted(quiver)
    ]
    return ["free entries", *(lines or ["none"])]


def lost_entries(quiver: Quiver) -> list[str]:
    """How many entries of the paper's change of basis each layer lacks, and which operator forbids them, one
    line each."""
    width = max((len(lost.layer) for lost in quiver.lost), default=0)
    lines = []
    for lost in quiver.lost:
        how = "pinned" if lost.pinned else "tied to others"
        lines.append(f"{lost.layer:{width}}  {lost.size:,} {how} by {lost.operator}")
    return ["entries of the paper's form that are lost", *(lines or ["none"])]


def moved_buffers(quiver: Quiver) -> list[str]:
    """How many running statistics move beside the parameters, where any may."""
    if quiver.norms == "exact":
        return []
    count, corrected = len(quiver.buffers), len(quiver.corrections)
    return ["", f"running statistics that move  {count}, with {corrected} weights corrected for eps"]


def _admitted(quiver: Quiver) -> list[tuple[Layer, dict[str, int]]]:
    """How many of the entries of each layer admit what."""
    return [
        (layer, dict(Counter(quiver.admits[layer.start : layer.start + layer.size])))
        for layer in quiver.layers
    ]


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
