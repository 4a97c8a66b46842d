"""Python files of the user's that the command line admits, and what their names refer to. No torch.

`--plugin my_nets.py` admits the module `my_nets`; from then on the reference `my_nets:SmallNet` is the name
`SmallNet` in it: a network, a data set, an optimizer, a scheduler or a loss. What an experiment file, a
checkpoint or a folder of results says never admits a module, and a reference to one that was not admitted is
an error. A file is read when it is admitted and run when a reference is first looked up, from the text that
was read: its digest is that of the code that runs.

The admitted files belong to the process, like the modules that Python has imported. Each command admits its
own, and passes them on to its worker processes.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nteleport.errors import PluginError, UnknownNameError, nearest

LIBRARIES = ("timm", "hf")
"""Libraries whose networks need no plugin: `timm:resnet10t`, `hf:bert`."""

_LARGEST_FILE = 5_000_000
"""Bytes."""

_REFERENCE = re.compile(r"(?P<module>[^\W\d]\w*):(?P<name>[^\W\d]\w*)")


@dataclass(frozen=True)
class Plugin:
    """A file of the user's.

    Attributes:
        module: the name of the module that it is.
        path: of the file, absolute.
        digest: SHA-256 of its content, in hexadecimal.
        source: its content.
    """

    module: str
    path: Path
    digest: str
    source: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path | str, module: str | None = None) -> Plugin:
        """Read a file; without a `module`, it is named after the file.

        Raises:
            PluginError: it cannot be read, or is no Python file.
        """
        file = Path(path)
        if file.suffix != ".py":
            raise PluginError(f"{file}: expected a Python file, such as my_nets.py")
        if not file.is_file():
            raise PluginError(f"{file}: no such file, expected a Python file")
        try:
            with file.open("rb") as opened:
                source = opened.read(_LARGEST_FILE + 1)
        except OSError as error:
            raise PluginError(f"{file} cannot be read: {error.strerror}") from error
        if len(source) > _LARGEST_FILE:
            raise PluginError(f"{file}: expected a Python file of at most {_LARGEST_FILE:,} bytes")
        absolute = file.resolve()
        return cls(module or file.stem, absolute, hashlib.sha256(source).hexdigest(), source)


class _Loader(SourceFileLoader):
    """Runs what was read, whatever the file holds by now, and writes no bytecode beside it."""

    def __init__(self, plugin: Plugin) -> None:
        super().__init__(plugin.module, str(plugin.path))
        self.plugin = plugin

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.plugin.source, self.path, "exec", dont_inherit=True)


class _Finder:
    """Lets admitted files import each other, so that each of them is run once."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        plugin = _admitted.get(name)
        return None if plugin is None else spec_from_loader(name, _Loader(plugin))


_admitted: dict[str, Plugin] = {}


def admit(paths: Iterable[Path | str]) -> tuple[Plugin, ...]:
    """Admit these files and no others.

    Raises:
        PluginError: a file that cannot be read, whose name is that of another module or is no name of one, or
            two of one name. Then no file is admitted.
    """
    _admitted.clear()
    found: dict[str, Plugin] = {}
    for plugin in map(Plugin.read, paths):
        other = found.get(plugin.module)
        if other is not None and other.path != plugin.path:
            raise PluginError(f"{plugin.path} and {other.path} have one name: rename one of them")
        _check_name(plugin)
        found[plugin.module] = plugin
    _admitted.update(found)
    if found and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    return tuple(found.values())


def admitted() -> tuple[Plugin, ...]:
    """The files that are admitted."""
    return tuple(_admitted.values())


def is_reference(text: object) -> bool:
    """Whether a name refers to a plugin or a library: whether it has a colon."""
    return isinstance(text, str) and ":" in text


def check_reference(reference: str, *, libraries: bool = False) -> str:
    """The reference itself, if its module is admitted; nothing is run.

    Args:
        reference: `module:name`.
        libraries: whether a name of one of `LIBRARIES` will do.

    Raises:
        UnknownNameError: it is no reference, or its module was not admitted.
    """
    module, _, name = reference.partition(":")
    if libraries and module in LIBRARIES and name:
        return reference
    if not _REFERENCE.fullmatch(reference):
        raise UnknownNameError(f"{reference!r}: expected module:name, such as my_nets:SmallNet")
    if module not in _admitted:
        raise UnknownNameError(
            f"{reference!r}: the module {module} was not admitted on the command line, expected "
            f"--plugin {module}.py{nearest(module, _admitted)}"
        )
    return reference


def look_up(reference: str) -> Any:
    """What a reference refers to. Its module is run the first time.

    Raises:
        PluginError: the module cannot be run.
        UnknownNameError: it is not admitted, or has no such name.
    """
    module, _, name = check_reference(reference).partition(":")
    names = run_file(_admitted[module])
    if name not in names:
        public = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"{_admitted[module].path} has no {name!r}{nearest(name, public)}")
    return names[name]


def digest_of(reference: str) -> str:
    """The digest of the code that a reference refers to, for keys of caches; empty without a plugin."""
    plugin = _admitted.get(reference.partition(":")[0])
    return plugin.digest if plugin else ""


def keywords_of(function: Any, without: Container[str] = ()) -> dict[str, Any] | None:
    """The keyword arguments of a function or class with their defaults, `inspect.Parameter.empty` where there
    is none; None if only calling it tells, as with ``**kwargs`` in its signature.
    """
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are written in C
        return None
    if any(each.kind is each.VAR_KEYWORD for each in found):
        return None
    by_name = (each for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
    return {each.name: each.default for each in by_name if each.name not in without}


def run_file(plugin: Plugin) -> Mapping[str, Any]:
    """The names that a file defines. As for ``python FILE.py``, it can import what lies beside it.

    Raises:
        PluginError: it raises an error, or exits; the message names its line.
    """
    module = sys.modules.get(plugin.module)
    if module is not None and _plugin_of(module) == plugin:
        return vars(module)
    loader = _Loader(plugin)
    spec = spec_from_loader(plugin.module, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[plugin.module] = module  # where dataclasses, pickle and inspect look for it
    folder = str(plugin.path.parent)
    sys.path.insert(0, folder)
    try:
        loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[plugin.module]
        raise
    except BaseException as error:
        sys.modules.pop(plugin.module, None)
        raise PluginError(f"{_place(plugin.path, error)} cannot be run: {one_line(error)}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return vars(module)


def one_line(error: BaseException) -> str:
    """An error of the user's code in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _place(path: Path, error: BaseException) -> str:
    """The file with the line that raised an error, or that called what did."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f"{path}:{error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _is_of(frame, path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _is_of(frame: Any, path: Path) -> bool:
    return bool(frame.f_code.co_filename == str(path))


def located(reference: str, error: BaseException) -> str:
    """An error of the code that a reference refers to in one line, with its line in the plugin."""
    plugin = _admitted.get(reference.partition(":")[0])
    place = _place(plugin.path, error) if plugin else ""
    return f"{place}: {one_line(error)}" if place.rpartition(":")[2].isdecimal() else one_line(error)


def _plugin_of(module: ModuleType) -> Plugin | None:
    return getattr(module.__loader__, "plugin", None)


def _check_name(plugin: Plugin) -> None:
    """Refuse names that are in use: no plugin hides a module of Python, of nteleport or of a library."""
    name = plugin.module
    if not name.isidentifier():
        raise PluginError(f"{plugin.path}: {name!r} is no name of a module, expected letters, digits and _")
    loaded = sys.modules.get(name)
    hides = loaded is not None and _plugin_of(loaded) is None and _file_of(loaded) != plugin.path
    own = {plugin.path.parent, Path.cwd()}
    elsewhere = [folder for folder in sys.path if folder and Path(folder).resolve() not in own]
    taken = hides or name in (*sys.stdlib_module_names, *LIBRARIES) or PathFinder.find_spec(name, elsewhere)
    if taken:
        raise PluginError(f"{plugin.path}: {name} is the name of another module: rename the file")


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None
