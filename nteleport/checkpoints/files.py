"""Checkpoints on disk, in torch's format and as safetensors; what they hold besides weights stays as it is.

Nothing in a checkpoint is ever executed: torch's files are read with ``weights_only``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nteleport.errors import CheckpointError, NTeleportError
from nteleport.extras import import_extra
from nteleport.jobs.atomic import replacing

SAFETENSORS = ".safetensors"
"""The suffix of safetensors; every other is of torch's format."""

KEYS = ("state_dict", "model_state_dict", "model", "weights")
"""Where a checkpoint that holds more than weights has them."""

_PLAIN_METADATA = {"format": "pt"}
"""What libraries write into every safetensors file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: of the file.
        content: everything in it.
        weights: the tensors in ``content`` by their names, in order. They may be written to, in place.
        key: under which ``content`` has them; empty if there is nothing else.
        metadata: of a safetensors file.
    """

    path: Path
    content: Any
    weights: Mapping[str, Any]
    key: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights: a state dict, or one under a key of `KEYS` among other things.

    Raises:
        CheckpointError: no such file, one that cannot be read without executing what is in it, or one without
            tensors by name.
        MissingExtraError: a safetensors file, and the package is not installed.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
        raise CheckpointError(f"{path}: {found}, expected a file of weights")
    try:
        if path.suffix == SAFETENSORS:
            weights, metadata = _read_safetensors(path)
            return Checkpoint(path, weights, weights, metadata=metadata)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except NTeleportError:
        raise
    except Exception as error:  # both readers may raise anything for a damaged file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{path}: cannot be read as a file of tensors and plain values ({lines[0].partition('. ')[0]})"
        ) from error
    if _is_state_dict(content):
        return Checkpoint(path, content, content)
    for key in KEYS:
        if isinstance(content, Mapping) and _is_state_dict(content.get(key)):
            return Checkpoint(path, content, content[key], key)
    held = type(content).__name__
    if isinstance(content, Mapping):
        held = ", ".join(map(repr, list(content)[:8])) or "nothing"
    raise CheckpointError(
        f"{path}: holds {held[:300]}; expected tensors by name, or these under one of {', '.join(KEYS)}"
    )


def _is_state_dict(content: object) -> bool:
    """Whether this is a mapping of names to tensors; modules may add extra state of their own."""
    return (
        isinstance(content, Mapping)
        and all(isinstance(name, str) for name in content)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(isinstance(value, Tensor) or name.endswith("_extra_state") for name, value in content.items())
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    safetensors = import_extra("safetensors", extra="safetensors", purpose=f"reading {path.name}")
    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        # Copies: what is read may be a view of the file.
        weights = {name: file.get_tensor(name).clone() for name in file.offset_keys()}
        return weights, dict(file.metadata() or {})


def check_writable(checkpoint: Checkpoint, path: Path, *, overwrite: bool = False) -> None:
    """Ask all that can be asked before the work whether ``write_checkpoint`` will succeed.

    Raises:
        CheckpointError: the file exists and is not to be overwritten, its folder does not exist, or its
            format cannot hold what the checkpoint holds.
        MissingExtraError: as for reading.
    """
    check_free(path, overwrite=overwrite)
    if path.suffix == SAFETENSORS:
        import_extra("safetensors.torch", extra="safetensors", purpose=f"writing {path.name}")
        if checkpoint.key or any(not isinstance(value, Tensor) for value in checkpoint.weights.values()):
            held = f"more than {checkpoint.key!r}" if checkpoint.key else "extra state"
            raise CheckpointError(
                f"{path}: {checkpoint.path.name} holds {held}, which safetensors cannot; "
                "choose the suffix .pt"
            )
    elif dict(checkpoint.metadata) not in ({}, _PLAIN_METADATA):
        raise CheckpointError(
            f"{path}: {checkpoint.path.name} has metadata ({', '.join(checkpoint.metadata)}), which only "
            f"safetensors can hold; choose the suffix {SAFETENSORS}"
        )


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise ``CheckpointError`` unless a file can have this path: in a folder, and no file yet."""
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: cannot be written, there is no folder {path.parent}")
    if path.is_dir():
        raise CheckpointError(f"{path}: cannot be written, it is a folder")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path}: exists already, and nothing asks to overwrite it")


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write everything that a checkpoint holds, in one step: `path` is complete or as it was.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with replacing(path, durable=True) as temporary:
            if path.suffix == SAFETENSORS:
                _write_safetensors(checkpoint, temporary)
            else:
                torch.save(checkpoint.content, temporary)
    except Exception as error:  # both libraries report a full disk in their own ways
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be written ({reason})") from error


def _write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Tensors that share all their memory are written once, and the other names noted in the metadata, as
    ``safetensors.torch.save_model`` does and its ``load_model`` expects."""
    safetensors = import_extra("safetensors.torch", extra="safetensors", purpose=f"writing {path.name}")
    metadata = {**_PLAIN_METADATA, **checkpoint.metadata}
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.weights.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            metadata[name] = first[place]
            continue
        first[place] = name
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    safetensors.save_file(tensors, path, metadata=metadata)
