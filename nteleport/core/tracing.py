"""Trace a network with ``torch.export``, quietly and without side effects."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from nteleport.core.preserving import preserved
from nteleport.core.trace_failures import explanation
from nteleport.errors import AnalysisError

ExampleInputs = Tensor | Sequence[object] | Mapping[str, object]
"""A tensor; a tuple or list of positional arguments; a mapping of keyword arguments; or a pair
``(args, kwargs)`` of a tuple and a dict. A dictionary that ``forward`` takes by position is ``((d,), {})``.
"""


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Example inputs as the positional and keyword arguments of a call.

    Raises:
        AnalysisError: they have none of the forms of ``ExampleInputs``.
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
        "a mapping of keyword arguments or a pair (args, kwargs) is accepted too"
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
    """Trace a call of ``network`` and restore it and its surroundings afterwards.

    Dataclasses among the inputs and outputs are registered with ``torch.export.register_dataclass``, and stay
    registered: the traced program needs that.

    Args:
        network: any module that ``torch.export`` can trace.
        args: positional arguments of the call, with the shape and on the device of real ones.
        kwargs: keyword arguments of the call.
        training: the mode to trace in. None: training mode, or evaluation mode where that cannot be traced
            (BatchNorm on a single value per channel). A module that refuses to change its mode keeps it.

    Returns:
        The program, and whether it was traced in training mode.

    Raises:
        AnalysisError: the network cannot be traced. The message says where, why and what to do.
    """
    if training is not None:
        return _trace_in_mode(network, args, kwargs, training)
    try:
        return _trace_in_mode(network, args, kwargs, True)
    except AnalysisError:  # what also fails in evaluation mode is reported from there
        return _trace_in_mode(network, args, kwargs, False)


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
            set_mode(network, training)
            _register_dataclasses((args, kwargs))
            network.register_forward_hook(lambda _module, _args, outputs: _register_dataclasses(outputs))
            training = network.training
            return torch.export.export(network, args, kwargs, strict=False), training
    except Exception as error:
        raise AnalysisError(explanation(network, error)) from error


def set_mode(module: nn.Module, training: bool) -> None:
    """Like ``module.train(training)``, but skips inner modules that refuse it, as exported modules do."""
    try:
        module.train(training)
    except NotImplementedError:
        for child in module.children():
            set_mode(child, training)


def _register_dataclasses(values: object) -> None:
    for leaf in tree_leaves(values):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            _register_dataclasses(leaf)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's logs, warnings and output: our error says in one line what went wrong."""
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
