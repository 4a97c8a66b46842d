"""Explain in one line what stopped ``torch.export`` in a network: where, why, what to do."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from types import FrameType, FunctionType
from typing import NamedTuple

from torch import nn

from nteleport.core.preserving import is_foreign

Frames = list[tuple[FrameType, int]]
"""The frames of a traceback, each with its line number, the deepest last."""


class _Known(NamedTuple):
    """A common failure: what its message matches, the reason in our words ("": in torch's), what to do."""

    pattern: str
    reason: str
    advice: str


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
    _Known("Expected more than 1 value per channel", "", "give example inputs of a larger batch"),
    _Known(
        "reduction dim|shapes? |sizes? |[Ss]izes of|size of|channels|dimension|normalized_shape|elements|"
        r"[Ii]mage size|\dD |input_size|input\.size|broadcast",
        "",
        _RIGHT_SHAPES,
    ),
]
_OF_OWN_ERRORS = "give example inputs that the network accepts"
_OTHERWISE = "check that the network runs on the example inputs; if so, take that out of the traced network"


def explanation(network: nn.Module, error: Exception) -> str:
    """One line: which network, where, why, what to do."""
    frames = list(traceback.walk_tb(error.__traceback__))
    layer = _layer(network, frames)
    reason, advice = _reason_and_advice(error, frames, layer)
    remedy = advice[0].upper() + advice[1:]
    place = layer + _line_of_code(frames) or _forward(network)
    return f"{type(network).__name__} cannot be traced{place}: {reason}. {remedy}."


def _reason_and_advice(error: Exception, frames: Frames, layer: str) -> tuple[str, str]:
    message = str(error) or type(error).__name__
    if _raised_by_network(error, frames):
        return _shortened(" ".join(message.split())), _OF_OWN_ERRORS
    first_sentence = _shortened(re.split(r"\n|(?<=[\w)\]'\"])\. +(?=[A-Z])", message.strip())[0])
    for known in _KNOWN:
        match = re.search(known.pattern, f"{type(error).__name__}{layer}: {message}")
        if match:
            return match.expand(known.reason) or first_sentence, known.advice
    return first_sentence, _OTHERWISE


def _raised_by_network(error: Exception, frames: Frames) -> bool:
    if isinstance(error, AssertionError):
        return any("assert" in _source(*place) for place in frames if _is_of_network(place[0]))
    return _is_of_network(frames[-1][0]) and _source(*frames[-1]).startswith("raise")


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
