"""Teleporting a file of weights: the same function, other weights, in a file of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nteleport.checkpoints.files import check_free, check_writable, read_checkpoint, write_checkpoint
from nteleport.checkpoints.fitting import load_into, write_back
from nteleport.core.certificate import Certificate
from nteleport.core.in_place import teleport_
from nteleport.core.tracing import ExampleInputs
from nteleport.errors import CheckpointError
from nteleport.jobs.atomic import write_json_atomic
from nteleport.vocabulary import Norms, Objective


def certificate_path(out: Path) -> Path:
    """Where the certificate of the weights in ``out`` is written."""
    return out.with_name(out.name + ".certificate.json")


def teleport_checkpoint(
    path: Path,
    network: nn.Module,
    example_inputs: ExampleInputs,
    out: Path,
    *,
    overwrite: bool = False,
    cob_range: float = 0.9,
    objective: Objective | None = None,
    generator: torch.Generator | None = None,
    description: str | None = None,
    norms: Norms = "exact",
) -> Certificate:
    """Read weights, teleport them with activations kept, and write them with their certificate.

    The weights that are written load into the same class and compute the same function. Whatever else the
    file holds is written as it was; the state of an optimizer among it thus belongs to the weights before.

    Args:
        path: a file for ``read_checkpoint``.
        network: of the class that the weights belong to. It holds the teleported weights afterwards.
        example_inputs: as for ``nteleport.analyze``; floating point in any dtype, they are cast to that of
            the weights. The certificate compares outputs on them.
        out: the file to write; ``.safetensors`` or torch's format, by the suffix.
        overwrite: whether ``out`` and its certificate may exist.
        cob_range, generator: of the change of basis, as for ``teleport_``.
        objective: choose the change of basis instead: one of ``choose_cob`` that needs no labels.
        description: what the example inputs are, for the certificate that is written.
        norms: as for ``teleport_``; with ``up_to_eps`` running statistics in the file move with the weights.

    Returns:
        The certificate, as written to ``certificate_path(out)``: there, ``inputs`` is the description.

    Raises:
        CheckpointError: a file that cannot be read or written, or does not fit the network.
        AnalysisError, TeleportationError: as for ``teleport_``; then nothing is written.
    """
    checkpoint = read_checkpoint(path)
    check_writable(checkpoint, out, overwrite=overwrite)
    check_free(certificate_path(out), overwrite=overwrite)
    load_into(network, checkpoint, as_stored=True)
    inputs = _in_dtype_of(network.eval(), example_inputs)
    done = teleport_(
        network, inputs, cob_range=cob_range, objective=objective, generator=generator, norms=norms,
        certificate="full",
    )  # fmt: skip
    write_back(network, checkpoint)
    write_checkpoint(checkpoint, out)
    assert done.certificate is not None
    content = {**done.certificate.to_dict(), **({} if description is None else {"inputs": description})}
    try:
        write_json_atomic(certificate_path(out), content, durable=True)
    except OSError as error:
        raise CheckpointError(f"{certificate_path(out)}: cannot be written ({error.strerror})") from error
    return done.certificate


def _in_dtype_of(network: nn.Module, inputs: ExampleInputs) -> ExampleInputs:
    """Inputs that are floating point, in the dtype of the network's first weights."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)

    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    cast_inputs: ExampleInputs = tree_map(cast, inputs)
    return cast_inputs
