"""Run a network without side effects: it and its surroundings are restored to their previous state.

Tracing runs ``forward`` on fake tensors, and whatever ``forward`` keeps (a buffer it registers, a mask in a
dict, an activation for later, a result behind ``functools.lru_cache``) would keep them too. Therefore
``preserved`` records beforehand what every attribute, plain container and plain object reachable from the
network holds, and restores what has changed. Only references are copied, and never the parameters and
buffers, which ``torch.export`` replaces while it traces; the few other reachable tensors are cloned, because
``torch.export`` actually runs in-place operators on them.
"""

from __future__ import annotations

import functools
import gc
import random
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

_CACHED_FUNCTION = type(functools.lru_cache(lambda: None))
_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, list, set, deque})
_WITHOUT_CONTENTS = frozenset(
    {str, int, float, bool, complex, bytes, type(None), torch.Size, torch.dtype, *weakref.ProxyTypes}
)
_GENERATORS: dict[type, tuple[str, str]] = {  # methods that get and set the state
    torch.Generator: ("get_state", "set_state"),
    random.Random: ("getstate", "setstate"),
    np.random.RandomState: ("get_state", "set_state"),
    np.random.Generator: ("", ""),  # its bit generator holds it
}
# Code of these packages keeps nothing that belongs to a network, and reaches everything.
_FOREIGN = sys.stdlib_module_names - {"__main__", "test"} | {"torch", "numpy", "nteleport"}
_LONG = 1000  # a longer container holds data; its items are restored, but what they hold is not inspected
_LARGE = 2**18  # elements; a larger tensor among the globals is data
_ABSENT = object()

RandomStates = dict[str, Tensor]
"""States of torch's default generators, by device type."""


@contextmanager
def preserved(network: nn.Module, inputs: object = (), *, traced: bool = True) -> Iterator[None]:
    """Restore ``network`` and its surroundings after the block to their state before it.

    That is: every attribute of every module (parameters, buffers, hooks, modes); plain containers and plain
    objects reachable from them; attributes of the classes of the network and globals of the Python modules
    that define these classes; results that ``functools.lru_cache`` keeps of fake tensors; the random states
    of Python, NumPy and torch on the CPU and on the CUDA devices that hold the network or ``inputs``.
    Containers are restored in place. Values of parameters and buffers are left unchanged.

    Args:
        network: the module that the block runs.
        inputs: what it runs on, arbitrarily nested.
        traced: whether it runs on fake tensors. Otherwise no cache can keep any, and none is searched for,
            which saves milliseconds.
    """
    snapshot = _Snapshot(network, cached_elsewhere=traced)
    tensors = (*network.parameters(), *network.buffers(), *tree_leaves(inputs))
    devices = {t.device for t in tensors if isinstance(t, Tensor) and t.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        snapshot.restore()


def random_states(device: torch.device) -> RandomStates:
    """The states of torch's default generators: of the CPU and of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the default generators to the states that `random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def keeping_random_states(device: torch.device) -> Iterator[None]:
    """Leave torch's default generators as they were before the block."""
    states = random_states(device)
    try:
        yield
    finally:
        restore_random_states(states, device)


@contextmanager
def keeping_modes(network: nn.Module) -> Iterator[None]:
    """Leave each module in the mode, training or evaluation, that it was in before the block."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def keeping_buffers(network: nn.Module) -> Iterator[None]:
    """Leave the values of buffers, such as running statistics, as they were before the block."""
    values = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


class _Snapshot:
    """What everything reachable from a network holds."""

    def __init__(self, network: nn.Module, *, cached_elsewhere: bool) -> None:
        self._seen: dict[int, object] = {id(t): t for t in (*network.parameters(), *network.buffers())}
        self._restorers: list[Callable[[], None]] = []
        self._cached_functions: list[tuple[Any, int]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._pending: list[tuple[object, bool]] = [(module, False) for module in network.modules()]
        self._visit_pending()
        for name, module in list(sys.modules.items()) if cached_elsewhere else ():
            if isinstance(module, ModuleType) and not is_foreign(name):
                found = [v for v in list(vars(module).values()) if type(v) is _CACHED_FUNCTION]
                self._pending += [(function, True) for function in found]
        self._visit_pending()

    def restore(self) -> None:
        """Restore everything."""
        for container, before in self._containers:
            _restore_container(container, before)
        for restore in self._restorers:
            restore()
        for function, misses in self._cached_functions:
            if function.cache_info().misses > misses and _holds_fake(function):
                function.cache_clear()

    def _visit_pending(self) -> None:
        while self._pending:
            value, is_global = self._pending.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self._visit(value, is_global)

    def _visit(self, value: Any, is_global: bool) -> None:
        """Record what ``value`` holds, and what is reachable from there."""
        kind = type(value)
        if kind in _CONTAINERS:
            self._containers.append((value, value.copy()))
            if 0 < len(value) <= _LONG:
                self._follow(value.values() if isinstance(value, dict) else value, is_global)
        elif isinstance(value, tuple):
            self._follow(value, is_global)
        elif kind is _CACHED_FUNCTION:
            self._cached_functions.append((value, value.cache_info().misses))
        elif isinstance(value, Tensor):
            self._note_tensor(value)
        else:
            self._visit_object(value)

    def _visit_object(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            cells = [_cell_contents(cell) for cell in value.__closure__ or ()]
            self._follow([*cells, value.__defaults__, value.__kwdefaults__])
            self._note_globals(value.__globals__)
        elif isinstance(value, MethodType):
            self._follow([value.__self__, value.__func__])
        elif isinstance(value, functools.partial):
            self._follow([value.func, value.args, value.keywords])
        elif isinstance(value, (staticmethod, classmethod)):
            self._follow([value.__func__])
        elif type(value) in _GENERATORS:
            self._note_generator(value)
        elif isinstance(value, (nn.Module, SimpleNamespace)) or not is_foreign(type(value).__module__):
            self._follow([getattr(value, "__dict__", None)])
            for each in type(value).__mro__:
                self._note_class(each)

    def _follow(self, values: Iterable[object], is_global: bool = False) -> None:
        wanted = _kept_in_globals if is_global else _has_contents
        self._pending += [(value, is_global) for value in values if wanted(value)]

    def _note_tensor(self, tensor: Tensor) -> None:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.is_inference() or 0 in tensor.stride():  # 0: elements share their memory
            return
        version, before = tensor._version, tensor.detach().clone()

        def restore() -> None:
            if tensor._version != version:
                tensor.detach().copy_(before)

        self._restorers.append(restore)

    def _note_generator(self, generator: Any) -> None:
        if isinstance(generator, np.random.Generator):
            bits, state = generator.bit_generator, generator.bit_generator.state
            self._restorers.append(lambda: setattr(bits, "state", state))
        else:
            get, put = _GENERATORS[type(generator)]
            self._restorers.append(functools.partial(getattr(generator, put), getattr(generator, get)()))

    def _note_class(self, kind: type) -> None:
        if id(kind) in self._seen or is_foreign(kind.__module__):
            return
        self._seen[id(kind)] = kind
        before = dict(vars(kind))
        self._follow(before.values())
        defined_in = sys.modules.get(kind.__module__)
        if defined_in is not None:
            self._note_globals(vars(defined_in))

        def restore() -> None:
            for name in [name for name in vars(kind) if name not in before and not name.startswith("__")]:
                delattr(kind, name)
            for name, value in before.items():
                if vars(kind).get(name, _ABSENT) is not value:
                    setattr(kind, name, value)

        self._restorers.append(restore)

    def _note_globals(self, namespace: dict[str, Any], imports: bool = True) -> None:
        """Record a Python module's globals, and those of the modules it imports from."""
        if id(namespace) in self._seen or is_foreign(namespace.get("__name__", "")):
            return
        self._seen[id(namespace)] = namespace
        before = {name: value for name, value in namespace.items() if not name.startswith("__")}
        self._follow(before.values(), is_global=True)
        for value in before.values() if imports else ():
            if isinstance(value, FunctionType):
                self._note_globals(value.__globals__, imports=False)
            elif isinstance(value, ModuleType):
                self._note_globals(vars(value), imports=False)

        def restore() -> None:
            # A new name stays unless it holds a fake tensor: it may be a submodule just imported.
            new = [name for name in namespace if name not in before and not name.startswith("__")]
            for name in new:
                if _holds_fake(namespace[name]):
                    del namespace[name]
            for name, value in before.items():
                if namespace.get(name, _ABSENT) is not value:
                    namespace[name] = value

        self._restorers.append(restore)


def _has_contents(value: object) -> bool:
    return type(value) not in _WITHOUT_CONTENTS and not isinstance(value, (type, ModuleType))


def _kept_in_globals(value: object) -> bool:
    """Among globals, only plain containers, cached functions and small tensors are restored."""
    if isinstance(value, Tensor):
        return value.numel() <= _LARGE
    return type(value) in _CONTAINERS or type(value) in (tuple, _CACHED_FUNCTION)


def is_foreign(module: object) -> bool:
    """Whether the Python module of this name belongs to the underlying libraries, not to the network."""
    return str(module).partition(".")[0] in _FOREIGN


def _cell_contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the variable has no value yet
        return None


def _restore_container(container: Any, before: Any) -> None:
    same = len(container) == len(before) and all(map(is_, container, before))
    if same and isinstance(container, dict):
        same = all(map(is_, container.values(), before.values()))
    if not same:
        container.clear()
        (container.extend if isinstance(container, (list, deque)) else container.update)(before)


def _holds_fake(value: object, depth: int = 3) -> bool:
    """Whether a fake tensor is in ``value`` or in something that it refers to."""
    if isinstance(value, FakeTensor):
        return True
    if depth == 0 or isinstance(value, (ModuleType, FunctionType, type, Tensor)):
        return False
    return any(_holds_fake(each, depth - 1) for each in gc.get_referents(value))
