"""What a training minimizes: `cross_entropy`, `mse`, or a function of the user's.

A loss takes the outputs of the network and the targets of a batch and returns its mean over the batch, a
scalar. Outputs are float32. Targets are classes, int64 `[B]`, or numbers, float32 `[B]` or `[B, outputs]`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from nteleport.errors import JobError
from nteleport.plugins import is_reference, look_up

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, computed in float32."""
    return functional.cross_entropy(outputs.float(), targets)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference, computed in float32; classes are compared as vectors of zeros and a one."""
    outputs = outputs.float()
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[1]).to(outputs)
    return functional.mse_loss(outputs.view_as(targets), targets)


_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mean_squared_error}


def find_loss(name: str) -> Loss:
    """A loss by name, or the function that `module:name` refers to.

    Raises:
        PluginError: the module cannot be run.
        UnknownNameError: it is not admitted, or has no such name.
        JobError: it is no function.
    """
    if not is_reference(name):
        return _LOSSES[name]
    function = look_up(name)
    if not callable(function) or isinstance(function, type):
        raise JobError(f"{name} is no function of outputs and targets")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = function(outputs.float(), targets)
        return found

    return loss


def check_loss(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Check that a loss takes these outputs and targets and gives a mean that training can descend.

    Raises:
        NTeleportError: as for `find_loss`.
        JobError: it returns something else.
        Exception: whatever it raises.
    """
    if name == "cross_entropy" and targets.is_floating_point():
        raise JobError(
            "loss: cross_entropy needs classes and targets are numbers, expected mse or one of yours"
        )
    found = find_loss(name)(outputs.detach().requires_grad_(), targets)
    if not isinstance(found, Tensor) or found.shape != () or not found.requires_grad:
        kind = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        constant = isinstance(found, Tensor) and found.shape == () and not found.requires_grad
        what = "a constant, which has no gradient" if constant else kind
        raise JobError(f"{name} returned {what}, expected the mean of the batch, a scalar tensor")


def check_outputs(outputs: object, targets: Tensor, num_classes: int, what: str) -> Tensor:
    """The outputs of a network, if they fit the targets.

    Raises:
        JobError: they are no tensor `[B, classes]`, or for numbers not as many as those.
    """
    if not isinstance(outputs, Tensor):
        raise JobError(f"{what} returns a {type(outputs).__name__}, expected one tensor")
    got = list(outputs.shape)
    if targets.is_floating_point():
        if outputs.numel() != targets.numel() or got[:1] != list(targets.shape[:1]):
            raise JobError(
                f"{what} returns {got} for targets {list(targets.shape)}, expected as many numbers"
            )
    elif outputs.ndim != 2 or got[0] != len(targets) or got[1] < num_classes:
        raise JobError(
            f"{what} returns {got}, expected [{len(targets)}, {num_classes}]: a number for each class"
        )
    if not outputs.is_floating_point():
        raise JobError(f"{what} returns {str(outputs.dtype).removeprefix('torch.')}, expected floats")
    return outputs
