"""The studies of the paper by name: what each computes, how it is drawn and how it is run again.

A study is a package with three parts, of which only the first is imported before it is needed, so that help
and plots never import torch:

- `STUDY` with a settings class, from which the command line and `study.yml` follow;
- `compute(settings, *, progress)`, which returns one tidy table or several by name. If it is `resumable`, it
  also receives `folder`, where it may keep completed parts;
- `draw(tables)`, which takes the result of `compute` and returns one matplotlib figure or several by name.

`run_study` does all three and writes `<name>.csv`, `<name>.png`, `<name>.pdf` and `study.yml`, by rename.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from nteleport.errors import ExperimentError, Problem, StudyError, nearest
from nteleport.jobs.atomic import replacing, write_text_atomic
from nteleport.plugins import admitted
from nteleport.schema.fields import Refused, read_options
from nteleport.schema.yaml_source import Mark, Node, Problems, parse_yaml, to_yaml
from nteleport.studies.settings import StudySettings, plain_settings, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Progress = Callable[[int, int], None]
"""Called with the number of completed steps and their total number."""

SETTINGS_FILE = "study.yml"
_DOTS_PER_INCH = 200


def no_progress(done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


STUDIES = (
    "micro",
    "gradients",
    "weights",
    "dot-product",
    "recover",
    "interpolate",
    "landscape",
    "branches",
    "sharpness",
    "activations",
)
"""The names of all studies. Each has a package of its name, `-` as `_`, that defines `STUDY`."""


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: as on the command line.
        summary: one-line help.
        settings: the class of its settings.
        compute: the name of the function in its module `compute`; `draw` in its module `picture` draws.
        resumable: whether `compute` takes the output folder as `folder` and continues from its content.
    """

    name: str
    summary: str
    settings: type[StudySettings]
    compute: str
    resumable: bool = False

    def computing(self) -> Callable[..., DataFrame | Mapping[str, DataFrame]]:
        """The function that computes; imports torch."""
        found: Callable[..., DataFrame | Mapping[str, DataFrame]]
        found = getattr(import_module(f"{_package_of(self.name)}.compute"), self.compute)
        return found

    def drawing(self) -> Callable[..., Figure | Mapping[str, Figure]]:
        """The function that draws; imports matplotlib, not torch."""
        found: Callable[..., Figure | Mapping[str, Figure]]
        found = import_module(f"{_package_of(self.name)}.picture").draw
        return found


def find_study(name: str) -> Study:
    """The study `name`; underscores count as dashes.

    Raises:
        StudyError: there is none; the message suggests the nearest name.
    """
    key = str(name).replace("_", "-")
    if key not in STUDIES:
        known = ", ".join(STUDIES)
        raise StudyError(f"unknown study {name!r}, expected one of {known}{nearest(key, STUDIES)}")
    study: Study = import_module(_package_of(key)).STUDY
    return study


def _package_of(study: str) -> str:
    return f"nteleport.studies.{study.replace('-', '_')}"


def run_study(
    study: Study, settings: StudySettings, out: Path, *, progress: Progress = no_progress
) -> list[Path]:
    """Compute, draw and write a study.

    Args:
        study: one of `STUDIES`.
        settings: an instance of its settings class.
        out: the output folder, created if missing. Files of an earlier run are replaced.
        progress: reports the progress of the computation.

    Returns:
        The files, tables before pictures.

    Raises:
        NTeleportError: raised by the study, or `out` cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):  # report errors now, not after the computation
            pass
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {error.strerror}") from error
    extra = {"folder": out} if study.resumable else {}
    tables = study.computing()(settings, progress=progress, **extra)
    written = [_write_table(out, name, table) for name, table in _named(study, tables).items()]
    # After the tables: a failed run must not leave its settings beside the tables of another.
    write_text_atomic(out / SETTINGS_FILE, settings_yaml(study, settings))
    for name, figure in _named(study, study.drawing()(tables)).items():
        written += write_figure(out, name, figure)
    return [*written, out / SETTINGS_FILE]


def settings_yaml(study: Study, settings: StudySettings) -> str:
    """The content of the `study.yml` that runs a study again."""
    content = {"study": study.name, **plain_settings(settings)}
    plugins = "".join(f" --plugin {shlex.quote(str(plugin.path))}" for plugin in admitted())
    return f"# nteleport study --from {SETTINGS_FILE}{plugins}\n{to_yaml(content)}"


def load_study(path: Path) -> tuple[Study, StudySettings]:
    """The study and the settings of a `study.yml`.

    Raises:
        ExperimentError: with all problems of the file, each with its place.
        StudyError: incompatible settings.
    """
    problems = Problems()
    try:
        root = parse_yaml(path.read_text(encoding="utf-8-sig"), Mark(str(path)), problems)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problem = Problem(str(path), 0, 0, f"{reason}, expected the settings of a study")
        raise ExperimentError([problem]) from error
    root = root or Node({}, Mark(str(path)))
    entries = root.value if isinstance(root.value, dict) else {}
    study = _study_of(entries.get("study"), root, problems)
    if study is None:
        raise ExperimentError(problems)
    rest = Node({key: node for key, node in entries.items() if key != "study"}, root.mark)
    values = read_options(study.settings, rest, problems, f"the study {study.name}")
    if problems:
        raise ExperimentError(sorted(set(problems)))
    return study, study.settings(**values)


def write_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as PNG and PDF; neither contains a date, so equal pictures are equal files."""
    from nteleport.plots.style import paper_style

    written = []
    for suffix, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None}}.items():
        path = folder / f"{name}.{suffix}"
        with replacing(path) as temporary, paper_style():
            figure.savefig(temporary, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
        written.append(path)
    return written


def _write_table(folder: Path, name: str, table: DataFrame) -> Path:
    path = folder / f"{name}.csv"
    write_text_atomic(path, table.to_csv(index=False, lineterminator="\n"))
    return path


def _named(study: Study, found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {study.name: found}


def _study_of(node: Node | None, root: Node, problems: Problems) -> Study | None:
    if node is None:
        problems.add(root.mark, f"missing key 'study', expected one of {', '.join(STUDIES)}")
        return None
    try:
        return find_study(text(node))
    except Refused as refusal:
        problems.add(node.mark, f"study: {refusal}")
    except StudyError as error:
        problems.add(node.mark, str(error))
    return None
