"""What a teleportation did to the outputs of a network, measured and not assumed.

The weights of a network that runs as it is, with activations kept, must give the outputs that they gave
before. A ``Snapshot`` runs the network before and after its weights move, leaves no trace of that, and writes
down the difference as a ``Certificate``.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nteleport.core.preserving import keeping_buffers, preserved
from nteleport.core.quiver import Admitted, Quiver
from nteleport.core.tracing import ExampleInputs, as_call, set_mode
from nteleport.errors import TeleportationError

UP_TO_EPS_TOLERANCE = 0.01
"""The relative change of outputs that is accepted where inputs of normalizations move: what one layer makes
of entries of 0.1 with a variance of 0.05 and an ``eps`` of 1e-5."""

_TF32_EPS = 2.0**-10


class OutputChange(NamedTuple):
    """How far the outputs of two forward passes on the same data differ.

    Attributes:
        absolute: the largest change of one number. Infinite where only one of the two is finite, or where
            the outputs have other shapes.
        relative: for each output tensor, its largest change over its largest number; the largest of these.
            Where all numbers are 0 in both passes, it is 0.
    """

    absolute: float
    relative: float


@dataclass(frozen=True)
class Certificate:
    """One teleportation: what it did to outputs and weights.

    Attributes:
        condition: ``max|τ| / min|τ|``; 1 for a change of basis without entries.
        entries: the number of entries of the change of basis.
        admitted: how many entries admit which numbers, by the words of ``Quiver.admits``.
        weights_before, weights_after: what ``weights_digest`` gives for the parameters and buffers.
        absolute, relative: change of the outputs on the given data, in the mode and precision in which the
            network was; see ``OutputChange``. None where no outputs were compared.
        further: the same under other circumstances, as ``"eval, random inputs"``; empty unless full.
        skipped: circumstances in which the network could not run, and why.
    """

    condition: float
    entries: int
    admitted: Mapping[Admitted, int]
    weights_before: str
    weights_after: str
    absolute: float | None = None
    relative: float | None = None
    further: Mapping[str, OutputChange] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, quiver: Quiver, cob: Tensor, weights: tuple[str, str], outputs: OutputChange | None = None
    ) -> Certificate:
        """The certificate of a move by ``cob``, from the digests of the weights before and after it."""
        size = cob.detach().abs().double().cpu()
        condition = float(size.max() / size.min()) if len(size) else 1.0
        admitted = {word: quiver.admits.count(word) for word in get_args(Admitted)}
        return cls(condition, quiver.cob_size, admitted, *weights, *(outputs or ()))

    @property
    def largest_relative(self) -> float:
        """The largest relative change under any circumstances."""
        return max(self.relative or 0.0, *(change.relative for change in self.further.values()), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where numbers that are not finite become None."""
        further = {name: change._asdict() for name, change in self.further.items()}
        return {key: _finite(value) for key, value in {**asdict(self), "further": further}.items()}


class Snapshot:
    """A network before its weights move: its weights, and the outputs that they give.

    Every forward pass starts from the same random states, runs without gradients on copies of the inputs,
    and leaves no trace in buffers, modes and random states, see ``nteleport.core.preserving.preserved``.
    Meanwhile a thread takes the digests.

    Args:
        network: runs in the mode and precision in which it is.
        example_inputs: as for ``nteleport.analyze``.
        full: also run it in training and in evaluation mode, in float64, and on random inputs: normal for
            floating point, drawn from the given values for integers, from a generator of its own.

    Raises:
        TeleportationError: the network cannot run on these inputs, or returns no tensor.
    """

    def __init__(self, network: nn.Module, example_inputs: ExampleInputs, *, full: bool = False) -> None:
        self._network, self._call = network, as_call(example_inputs)
        self._weights = {name: _copied_to_host(tensor) for name, tensor in _weights(network).items()}
        self._digest = _digest_in_background(self._weights)
        self._wide: nn.Module | None = None
        self._further: list[_Run] = []
        self._skipped: dict[str, str] = {}
        try:
            self._run = _Run("", network, self._call)
        except Exception as error:
            raise TeleportationError(
                f"{type(network).__name__} cannot run on the example inputs: {_first_line(error)}"
            ) from error
        if not self._run.outputs:
            raise TeleportationError(f"{type(network).__name__} returns no tensor that could be compared")
        if full:
            self._run_further()

    @property
    def tolerance(self) -> float:
        """The relative change of outputs that rounding can explain: the square root of the machine epsilon
        of the coarsest dtype among weights and outputs.

        That is 1.5e-8 for float64, 3.5e-4 for float32, 0.03 for float16 and 0.09 for bfloat16. On a GPU
        float32 counts as TF32 (0.03), to which convolutions are rounded there by default.
        """
        tensors = [*_weights(self._network).values(), *self._run.outputs]
        used = [t for t in tensors if t.is_floating_point() or t.is_complex()]
        return math.sqrt(max(map(_epsilon, used), default=torch.finfo(torch.float32).eps))

    def certify(self, quiver: Quiver, cob: Tensor, move: Callable[[nn.Module], None]) -> Certificate:
        """Compare with what the network computes now, after its weights were moved by ``cob``.

        Args:
            quiver, cob: of the move.
            move: moves the weights of a network in place. It is called on a copy in float64, if full.
        """
        torch.clear_autocast_cache()  # which holds casts of the weights before
        versions = [parameter._version for parameter in self._network.parameters()]
        digest = _digest_in_background(_readable(self._network))
        outputs = self._run.change()
        if self._wide is not None:
            move(self._wide)
        further = {run.name: run.change() for run in self._further}
        after = digest.result()
        if versions != [parameter._version for parameter in self._network.parameters()]:
            after = weights_digest(_weights(self._network))  # a forward pass wrote to them
        certificate = Certificate.of(quiver, cob, (self._digest.result(), after), outputs)
        return replace(certificate, further=further, skipped=self._skipped)

    def restore(self) -> None:
        """Write the weights back, bit for bit."""
        with torch.no_grad():
            for name, tensor in _weights(self._network).items():
                tensor.detach().copy_(self._weights[name])
        torch.clear_autocast_cache()

    def _run_further(self) -> None:
        networks = {"": self._network}
        try:
            self._wide = networks["float64, "] = _copy_in_float64(self._network)
        except Exception as error:
            self._skipped["float64"] = _first_line(error)
        calls = {"given inputs": self._call, "random inputs": _random_like(self._call)}
        for precision, network in networks.items():
            for mode in ("train", "eval"):
                for inputs, call in calls.items():
                    name = f"{precision}{mode}, {inputs}"
                    moved = call if network is self._network else tree_map(_widened, call)
                    try:
                        self._further.append(_Run(name, network, moved, mode == "train"))
                    except Exception as error:
                        self._skipped[name] = _first_line(error)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors with their names, dtypes and shapes, in this order: 64 hexadecimal digits.

    The header of each tensor is ``name dtype shape`` in UTF-8 and a line feed, as ``0.weight torch.float32
    (8, 4)``; its bytes follow in row-major order.
    """
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Run:
    """One forward pass of a network before its weights move, to be repeated after they did."""

    def __init__(
        self, name: str, network: nn.Module, call: tuple[Any, Any], training: bool | None = None
    ) -> None:
        self.name = name
        self._network, self._call, self._training = network, call, training
        self.outputs = self._forward()

    def change(self) -> OutputChange:
        """How far the outputs are now from those before."""
        return _change(self.outputs, self._forward())

    def _forward(self) -> list[Tensor]:
        with (
            preserved(self._network, self._call, traced=False),
            keeping_buffers(self._network),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            args, kwargs = tree_map(_copied, self._call)
            if self._training is not None:
                set_mode(self._network, self._training)
            return [tensor.detach().clone() for tensor in _tensors(self._network(*args, **kwargs))]


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _readable(network: nn.Module) -> dict[str, Tensor]:
    """The weights as they can be read while the network runs: copies of what is on another device, and of
    buffers, which a forward pass updates."""
    parameters = {
        name: parameter.detach() if parameter.device.type == "cpu" else _copied_to_host(parameter)
        for name, parameter in network.named_parameters()
    }
    return parameters | {name: _copied_to_host(buffer) for name, buffer in network.named_buffers()}


def _copied_to_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _digest_in_background(weights: Mapping[str, Tensor]) -> Future[str]:
    """Hashing releases the interpreter's lock, so that it costs a core, but next to no time."""
    executor = ThreadPoolExecutor(1)
    digest = executor.submit(weights_digest, weights)
    executor.shutdown(wait=False)
    return digest


def _tensors(outputs: object) -> Iterator[Tensor]:
    """All tensors in outputs of a network, those in dataclasses that torch does not know included."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf.to_dense() if leaf.layout != torch.strided else leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _tensors([getattr(leaf, each.name) for each in fields(leaf)])


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> OutputChange:
    if [t.shape for t in before] != [t.shape for t in after]:
        return OutputChange(math.inf, math.inf)
    changes = [_change_of_one(a, b) for a, b in zip(before, after, strict=True) if a.numel()]
    largest = (max(column) for column in zip(*changes, strict=True))
    return OutputChange(*largest) if changes else OutputChange(0.0, 0.0)


def _change_of_one(before: Tensor, after: Tensor) -> tuple[float, float]:
    a, b = _comparable(before), _comparable(after)
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    sizes = torch.cat([a.abs().flatten(), b.abs().flatten()])
    sizes = torch.where(sizes.isfinite(), sizes, 0.0)
    absolute, size = torch.stack([difference.max(), sizes.max()]).tolist()
    if absolute == 0:
        return 0.0, 0.0
    return absolute, absolute / size if size else math.inf


def _comparable(values: Tensor) -> Tensor:
    """In a dtype in which differences do not overflow: float32 or wider, integers as float64."""
    if values.is_complex():
        return values
    return (
        values.to(torch.promote_types(values.dtype, torch.float32))
        if values.is_floating_point()
        else (values.cpu().double())
    )


def _epsilon(tensor: Tensor) -> float:
    epsilon = torch.finfo(tensor.dtype).eps
    return max(epsilon, _TF32_EPS) if tensor.is_cuda and tensor.dtype != torch.float64 else epsilon


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _copy_in_float64(network: nn.Module) -> nn.Module:
    wide = copy.deepcopy(network).double()  # which leaves complex numbers as they are
    for tensor in _weights(wide).values():
        tensor.data = _widened(tensor.data)
    return wide


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
        return leaf.to(torch.complex128 if leaf.is_complex() else torch.float64)
    return leaf


def _random_like(call: Any) -> Any:
    """Inputs of the same form; booleans, which are masks, stay as they are."""
    generator = torch.Generator().manual_seed(0)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dtype == torch.bool or not leaf.numel():
            return leaf
        if leaf.is_floating_point() or leaf.is_complex():
            wide = torch.promote_types(leaf.dtype, torch.float32)
            return torch.randn(leaf.shape, generator=generator, dtype=wide).to(leaf)
        positions = torch.randint(leaf.numel(), leaf.shape, generator=generator)
        return leaf.flatten()[positions.to(leaf.device)]

    return tree_map(drawn, call)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
