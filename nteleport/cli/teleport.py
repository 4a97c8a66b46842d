"""``nteleport teleport``: other weights for the same function, in a file of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nteleport.cli.network import NameType, model_type, network_choice, network_options, norms_option
from nteleport.cli.options import Command, NamedPath
from nteleport.vocabulary import OBJECTIVES

if TYPE_CHECKING:
    from nteleport.core.certificate import Certificate
    from nteleport.vocabulary import Norms, Objective

__all__ = ["teleport"]

_FILE = NamedPath(path_type=Path)
_RANGE = 0.9


@click.command(cls=Command)
@click.argument("checkpoint", type=_FILE)
@click.option(
    "--model",
    type=model_type,
    required=True,
    help="The network that the weights belong to: `mlp`, `cnn`, `vit`, a torchvision classifier, timm:NAME, "
    "hf:NAME, MODULE:CLASS of a --plugin, or FILE.py:CLASS.",
)
@network_options("if it is named, outputs are compared on images of it instead of random inputs")
@click.option(
    "--data-dir",
    type=_FILE,
    default="data",
    show_default=True,
    help="Where the data set is, or is downloaded to.",
)
@click.option(
    "--cob-range",
    type=float,
    metavar="R",
    help=f"Draw the change of basis from [1 - R, 1 + R], R at most 1.  [default: {_RANGE}]",
)
@click.option(
    "--objective",
    type=NameType("name", OBJECTIVES),
    help="Choose the change of basis instead: balance, path_conditioning, or activation_range (on the "
    "inputs on which outputs are compared).",
)
@norms_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the change of basis.")
@click.option("-o", "--out", type=_FILE, required=True, help="The file to write: .pt or .safetensors.")
@click.option("--force", is_flag=True, help="Overwrite OUT and its certificate.")
def teleport(
    checkpoint: Path,
    model: str,
    model_args: tuple[str, ...],
    dataset: str | None,
    input_shape: tuple[int, ...],
    image_size: int | None,
    data_dir: Path,
    plugins: tuple[Path, ...],
    cob_range: float | None,
    objective: Objective | None,
    norms: Norms,
    seed: int,
    out: Path,
    force: bool,
) -> None:
    """Teleport the weights in CHECKPOINT into other weights of the same function.

    The weights in OUT load into the unmodified network and compute what those in CHECKPOINT do. Names, order,
    dtypes, tied weights and whatever else the file holds stay as they are. CHECKPOINT is a state dict, or
    has one under state_dict, model_state_dict, model or weights; it is read without running code in it.
    FILE.py of --model is your own code, and is run.

    The certificate, how far the outputs differ on random inputs or on images of the data set, is printed,
    and written to OUT.certificate.json.
    """
    if objective is not None and cob_range is not None:
        raise click.UsageError(
            "--objective chooses a change of basis, --cob-range draws one: give one of them"
        )
    choice = network_choice(model, model_args, dataset, input_shape, image_size)

    from nteleport.checkpoints.inputs import Inputs, drawn, images
    from nteleport.checkpoints.teleport import certificate_path, teleport_checkpoint
    from nteleport.randomness import generator_for

    network = choice.build()
    if dataset and choice.source is None:
        inputs = images(dataset, data_dir, choice.input_shape[1:])
    elif choice.source is None:
        inputs = drawn(choice.input_shape, seed)
    else:
        inputs = Inputs(choice.inputs(), f"the first training inputs of {dataset}")
    certificate = teleport_checkpoint(
        checkpoint, network, inputs.tensor, out,
        overwrite=force, cob_range=_RANGE if cob_range is None else cob_range,
        objective=objective, generator=generator_for("change of basis", seed), norms=norms,
        description=inputs.description,
    )  # fmt: skip
    click.echo(f"inputs       {inputs.description}")
    for line in described(certificate):
        click.echo(line)
    click.echo(f"weights      {out}")
    click.echo(f"certificate  {certificate_path(out)}")


def described(certificate: Certificate) -> list[str]:
    """A certificate in a few lines."""
    words = ", ".join(f"{count:,} {word}" for word, count in certificate.admitted.items() if count)
    change = f"{certificate.relative:.1e} of the largest, {certificate.absolute:.1e} at most"
    lines = [
        f"entries      {certificate.entries:,}{f' ({words})' if words else ': nothing can be teleported'}",
        f"condition    {certificate.condition:.3g}",
        f"outputs      changed by {change}",
    ]
    for name, further in certificate.further.items():
        lines.append(f"             {further.relative:.1e} in {name}")
    for name, reason in certificate.skipped.items():
        lines.append(f"             not compared in {name}: {reason}")
    return lines
