"""Trace a network by ``torch.export`` without a trace left on it, and say in one line what stopped it."""

from __future__ import annotations

import inspect
import io
import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import is_dataclass
from types import FrameType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from nteleport.errors import AnalysisError
from nteleport.preserving import is_foreign, preserved

ExampleInputs = Tensor | Sequence[object] | Mapping[str, object]
"""A tensor; a tuple or list of positional arguments; a mapping of keyword arguments; or a pair
``(args, kwargs)`` of a tuple and a dict. A dictionary that ``forward`` takes by position is ``((d,), {})``.
"""


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Example inputs as the positional and keyword arguments of a call.

    Raises:
        AnalysisError: they have none of the forms of :data:`ExampleInputs`.
    """
    match example_inputs:
        case Tensor():
            return (example_inputs,), {}
        case Mapping():
            return (), _keywords(example_inputs)
        case (tuple(args), dict(kwargs)) if isinstance(example_inputs, tuple):
            return args, _keywords(kwargs)
        case tuple() | list():
            return tuple(example_inputs), {}
    raise AnalysisError(
        "example inputs are a tensor or a tuple of arguments, "
        f"got {type(example_inputs).__name__}; "
        "a mapping of keyword arguments or a pair (args, kwargs) will do, too"
    )


def _keywords(mapping: Mapping[Any, object]) -> dict[str, object]:
    for name in mapping:
        if not isinstance(name, str):
            raise AnalysisError(
                f"keywords of example inputs are strings, got {name!r}; "
                "a network that takes a dictionary by position has example inputs ((dictionary,), {})"
            )
    return dict(mapping)


def trace(
    network: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], *, training: bool | None = None
) -> tuple[ExportedProgram, bool]:
    """Trace a call of ``network`` and leave it, and the world around it, as they were.

    Dataclasses among the inputs and outputs are registered with ``torch.export.register_dataclass``, and stay
    so: the traced program needs that.

    Args:
        network: any module that ``torch.export`` can trace.
        args: positional arguments of the call, of the shape and on the device of real ones.
        kwargs: keyword arguments of the call.
        training: the mode to trace in. None: training mode, and where that cannot be traced (BatchNorm on a
            single value per channel) evaluation mode. A module that refuses to change its mode keeps it.

    Returns:
        The program, and whether it was traced in training mode.

    Raises:
        AnalysisError: the network cannot be traced. The message says where, why and what to do.
    """
    if training is not None:
        return _trace_in_mode(network, args, kwargs, training)
    try:
        return _trace_in_mode(network, args, kwargs, True)
    except AnalysisError as error:
        in_training = error
    try:
        return _trace_in_mode(network, args, kwargs, False)
    except AnalysisError:
        if _ONLY_IN_TRAINING in str(in_training):  # it hides what is wrong in either mode
            raise
        raise in_training from in_training.__cause__


def _trace_in_mode(
    network: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], training: bool
) -> tuple[ExportedProgram, bool]:
    if isinstance(network, torch.jit.ScriptModule):
        raise AnalysisError(
            f"{type(network).__name__} cannot be traced: it is a TorchScript module. "
            "Analyze the nn.Module that it was made from."
        )
    try:
        with preserved(network, (args, kwargs)), quiet():
            _set_mode(network, training)
            _register_dataclasses((args, kwargs))
            network.register_forward_hook(lambda _module, _args, outputs: _register_dataclasses(outputs))
            training = network.training
            return torch.export.export(network, args, kwargs, strict=False), training
    except Exception as error:
        raise AnalysisError(_explanation(network, error)) from error


def _set_mode(module: nn.Module, training: bool) -> None:
    """Like ``module.train(training)``, around modules inside that refuse it, as exported modules do."""
    try:
        module.train(training)
    except NotImplementedError:
        for child in module.children():
            _set_mode(child, training)


def _register_dataclasses(values: object) -> None:
    for leaf in tree_leaves(values):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            _register_dataclasses(leaf)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch logs, warns of and prints: our error says in one line what went wrong."""
    loggers = [log for name, log in logging.root.manager.loggerDict.items() if name.split(".")[0] == "torch"]
    handlers = {h: h.level for log in loggers if isinstance(log, logging.Logger) for h in log.handlers}
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for handler in handlers:
                handler.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for handler, level in handlers.items():
                handler.setLevel(level)


Frames = list[tuple[FrameType, int]]
"""Of a traceback, each with its line number, the deepest last."""


class _Known(NamedTuple):
    """A common failure: what its message matches, the reason in our words ("": in torch's), what to do."""

    pattern: str
    reason: str
    advice: str


_ONLY_IN_TRAINING = "Expected more than 1 value per channel"
_DATA_DEPENDENT = (
    "what it computes depends on values of its data",
    "replace a branch on data by torch.where or torch.cond, or take it out of the traced network",
)
_OWN_GRADIENTS = (
    "it differentiates (autograd.grad, backward, torch.func) or writes to .data while it runs",
    "take that out of the traced network",
)
_RIGHT_SHAPES = "give example inputs of the shapes that the network expects"
_KNOWN = [
    _Known(
        r"\((\w*(FakeQuantize|Observer))\)",
        r"\1 of quantization cannot be traced",
        "analyze the network before it is prepared for quantization, or prepare it with "
        "torch.ao.quantization.get_default_qat_qconfig, which can be traced",
    ),
    _Known("GuardOnDataDependent|DataDependent|data-dependent|DynamicOutputShape", *_DATA_DEPENDENT),
    _Known("type must be .*ints.*FakeTensor", *_DATA_DEPENDENT),
    _Known(
        r"\.numpy\(\) is not supported|Cannot access data pointer|to_numpy",
        "it reads the values of a tensor (NumPy, data_ptr)",
        "compute with torch operators instead, or take that out of the traced network",
    ),
    _Known(
        "uninitialized parameter|UninitializedParameter",
        "a lazy module has no weights yet",
        "run the network once on example inputs, then analyze it",
    ),
    _Known(
        r"Found <class '([\w.<>]*Cache)'> in output",
        r"it returns a \1",
        "set network.config.use_cache = False",
    ),
    _Known(
        r"Found <class '([\w.<>]+)'> in output",
        r"it returns a \1",
        "return tensors, or tuples, lists, dicts or dataclasses of them",
    ),
    _Known(
        r"Unsupported input type <class '([\w.<>]+)'>",
        r"an input is a \1",
        "give it tensors, numbers, strings, None, or tuples, lists, dicts or dataclasses of them",
    ),
    _Known("fake tensor in the exported program|functorch tensor", *_OWN_GRADIENTS),
    _Known(
        r"quantized|__obj_flatten__|PackedParams",
        "quantized modules are not supported",
        "analyze the network before it is converted",
    ),
    _Known(
        "DeviceMismatch|at least two devices|not on the expected device",
        "",
        "put network and example inputs on one device",
    ),
    _Known(
        "positional argument|keyword argument|required argument|multiple values for argument",
        "",
        "give example inputs as forward takes them: a tensor, a tuple of positional arguments, "
        "a mapping of keywords, or a pair (args, kwargs)",
    ),
    _Known(
        "scalar type|same dtype|must be.* integer|dtype",
        "",
        "give example inputs of the dtypes that the network expects",
    ),
    _Known(_ONLY_IN_TRAINING, "", "give example inputs of a larger batch"),
    _Known(
        "reduction dim|shapes? |sizes? |[Ss]izes of|size of|channels|dimension|normalized_shape|elements|"
        r"[Ii]mage size|\dD |input_size|input\.size|broadcast",
        "",
        _RIGHT_SHAPES,
    ),
]
_OF_OWN_ERRORS = "give example inputs that the network accepts"
_OTHERWISE = "check that the network runs on the example inputs; if so, take that out of the traced network"


def _explanation(network: nn.Module, error: Exception) -> str:
    """One line: whose network, where, why, what to do."""
    frames = list(traceback.walk_tb(error.__traceback__))
    layer = _layer(network, frames)
    reason, advice = _reason_and_advice(error, frames, layer)
    remedy = advice[0].upper() + advice[1:]
    place = layer + _line_of_code(frames) or _forward(network)
    return f"{type(network).__name__} cannot be traced{place}: {reason}. {remedy}."


def _reason_and_advice(error: Exception, frames: Frames, layer: str) -> tuple[str, str]:
    message = str(error) or type(error).__name__
    if _is_of_network(frames[-1][0]) and _source(*frames[-1]).startswith(("raise", "assert")):
        return _shortened(" ".join(message.split())), _OF_OWN_ERRORS
    first_sentence = _shortened(re.split(r"\n|(?<=[\w)\]'\"])\. +(?=[A-Z])", message.strip())[0])
    for known in _KNOWN:
        match = re.search(known.pattern, f"{type(error).__name__}{layer}: {message}")
        if match:
            return match.expand(known.reason) or first_sentence, known.advice
    return first_sentence, _OTHERWISE


def _shortened(text: str, length: int = 200) -> str:
    text = text.rstrip(" .!:;")
    return text if len(text) <= length else text[: length - 3] + "..."


def _layer(network: nn.Module, frames: Frames) -> str:
    """The innermost layer of the network that was running, if any was."""
    names = {id(module): name for name, module in network.named_modules() if name}
    layers = [m for frame, _ in frames if id(m := frame.f_locals.get("self")) in names]
    return f" in layer {names[id(layers[-1])]} ({type(layers[-1]).__name__})" if layers else ""


def _line_of_code(frames: Frames) -> str:
    """Where the network's own code stopped, if it was running."""
    own = [place for place in frames if _is_of_network(place[0])]
    if not own:
        return ""
    frame, line = own[-1]
    return f" at {frame.f_code.co_filename}:{line}, `{_shortened(_source(frame, line), 100)}`"


def _forward(network: nn.Module) -> str:
    """For failures outside the network's code, on its way in or out: where that code is."""
    forward = inspect.unwrap(type(network).forward)
    if not isinstance(forward, FunctionType) or is_foreign(forward.__module__):
        return ""
    return f" (its forward is at {forward.__code__.co_filename}:{forward.__code__.co_firstlineno})"


def _source(frame: FrameType, line: int) -> str:
    return linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()


def _is_of_network(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and not is_foreign(module)
