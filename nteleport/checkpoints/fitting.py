"""The tensors of a checkpoint and those of a network: whether they fit, and copying from one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nteleport.checkpoints.files import Checkpoint
from nteleport.errors import CheckpointError

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
_ADDED_LATER = "num_batches_tracked"
"""A buffer that torch added to batch normalization, and that old checkpoints lack."""
_NAMES_SHOWN = 4


def load_into(network: nn.Module, checkpoint: Checkpoint, *, as_stored: bool = False) -> None:
    """Give a network the numbers of a checkpoint.

    A prefix that all names of the checkpoint share, as wrappers add it (``module.``), is ignored.

    Args:
        network: with the names and shapes of the checkpoint. Its tensors stay the same objects.
        checkpoint: from ``read_checkpoint``.
        as_stored: change the dtypes of the network to those of the checkpoint.

    Raises:
        CheckpointError: names or shapes differ, numbers are not finite, or two names of one tensor of the
            network have different numbers.
    """
    stored = _stored(network, checkpoint)
    own = _own(network)
    for name, tensor in stored.items():
        _check_tensor(checkpoint, name, tensor, own[name])
    given: dict[int, str] = {}
    for name, tensor in stored.items():
        first = given.setdefault(id(own[name]), name)
        if first == name:
            with torch.no_grad():
                if as_stored:
                    own[name].data = torch.empty_like(own[name], dtype=tensor.dtype)
                own[name].copy_(tensor)
        elif not _same(stored[first], tensor):
            raise CheckpointError(
                f"{checkpoint.path}: {first} and {name} are one tensor in the model, but differ in the file"
            )


def write_back(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Write the numbers of a network into the tensors of the checkpoint that it was loaded from, in place.

    Names, order, dtypes and shared memory stay as they are.

    Raises:
        CheckpointError: tensors that share memory in the checkpoint have different numbers now.
    """
    stored = _stored(network, checkpoint)
    own = _own(network)
    with torch.no_grad():
        for name, tensor in stored.items():
            tensor.copy_(own[name])
    for name, tensor in stored.items():
        if not _same(tensor, own[name]):
            raise CheckpointError(
                f"{checkpoint.path}: {name} shares memory with another tensor in the file, "
                "but not in the model"
            )


def _own(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names: one object under several names is tied."""
    state = network.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise CheckpointError(f"{name} has no shape in the model before its first input: run it once")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _stored(network: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the checkpoint by the names of the network, checked to fit it."""
    own = _own(network)
    stored = {name: value for name, value in checkpoint.weights.items() if isinstance(value, Tensor)}
    while stored and not own.keys() & stored.keys():
        prefixes = {name.partition(".")[0] for name in stored}
        if len(prefixes) > 1 or not all("." in name for name in stored):
            break
        stored = {name.partition(".")[2]: tensor for name, tensor in stored.items()}
    held = {id(own[name]) for name in stored.keys() & own.keys()}
    problems = {
        "lacks": [n for n in own if id(own[n]) not in held and n.rpartition(".")[2] != _ADDED_LATER],
        "has, beyond the model,": [n for n in stored if n not in own],
        "has": [
            f"{n} of shape {_shape(stored[n])}, in the model {_shape(own[n])}"
            for n in stored
            if n in own and stored[n].shape != own[n].shape
        ],
    }
    found = [f"{verb} {_listed(names)}" for verb, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{checkpoint.path} does not fit the model: it {'; it '.join(found)}")
    return stored


def _check_tensor(checkpoint: Checkpoint, name: str, tensor: Tensor, own: Tensor) -> None:
    """Raise unless a tensor of a checkpoint can be copied from, teleported and copied to."""
    problem = None
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        problem = "is not a dense tensor of numbers"
    elif torch._debug_has_internal_overlap(tensor) == 1:
        problem = "holds one number in several places"
    elif own.is_floating_point() or own.is_complex():
        if tensor.dtype not in _DTYPES or tensor.is_complex() != own.is_complex():
            problem = f"has dtype {tensor.dtype}, in the model {own.dtype}"
        elif not bool(torch.isfinite(tensor).all()):
            problem = "holds numbers that are not finite"
    elif tensor.dtype != own.dtype:
        problem = f"has dtype {tensor.dtype}, in the model {own.dtype}"
    if problem:
        raise CheckpointError(f"{checkpoint.path}: {name} {problem}")


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.detach(), b.detach().to(a.device))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
