"""Everything that can go wrong, as one small tree.

Every error nteleport raises on purpose is an `NTeleportError`, so a caller can catch one class. The message
says what was found, what was expected and, where a name was mistyped, the nearest valid one; the command line
prints it and exits with code 2, without a traceback.

    NTeleportError
    ├── TeleportationError   a change of basis that cannot be applied or drawn        (also a ValueError)
    ├── AnalysisError        a network that cannot be traced
    ├── ExperimentError      an experiment file with problems, all of them at once
    ├── ExpressionError      a formula in an experiment file that is refused          (also a ValueError)
    ├── UnknownNameError     an unknown model, data set or initializer                (also a LookupError)
    ├── ModelError           arguments or images that a model cannot take             (also a ValueError)
    ├── CheckpointError      a file of weights that cannot be read or written, or does not fit its network
    ├── DatasetError         a data set that is neither present nor downloadable
    ├── JobError             a job that cannot be started or continued
    ├── PluginError          a Python file of the user's that cannot be read or run
    ├── ResultsError         results on disk that are missing or cannot be read
    ├── StudyError           a study that cannot run with its settings
    ├── MissingExtraError    a package that only an extra of nteleport installs        (also an ImportError)
    └── SlurmError           a SLURM cluster that is unavailable or refuses a job
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "AnalysisError",
    "CheckpointError",
    "DatasetError",
    "ExperimentError",
    "ExpressionError",
    "JobError",
    "MissingExtraError",
    "ModelError",
    "NTeleportError",
    "PluginError",
    "Problem",
    "ResultsError",
    "SlurmError",
    "StudyError",
    "TeleportationError",
    "UnknownNameError",
    "nearest",
]


_PROBLEMS_SHOWN = 50


class NTeleportError(Exception):
    """Base of all errors raised by nteleport."""


class TeleportationError(NTeleportError, ValueError):
    """A change of basis of wrong length or with an entry that is zero or not finite, or a forbidden range."""


class AnalysisError(NTeleportError):
    """A network that cannot be traced into a graph of operators."""


@dataclass(frozen=True, order=True)
class Problem:
    """One problem in an experiment file.

    `line` and `column` count from 1; line 0 means the file as a whole (it is missing, it is not text).
    """

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class ExperimentError(NTeleportError):
    """An experiment file that cannot run: `problems` has all its problems, `str()` the first 50."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_PROBLEMS_SHOWN]]
        if len(self.problems) > _PROBLEMS_SHOWN:
            lines.append(f"... and {len(self.problems) - _PROBLEMS_SHOWN} more")
        return "\n".join(lines)


class ExpressionError(NTeleportError, ValueError):
    """A formula that is not a plain arithmetic function of one number."""


class UnknownNameError(NTeleportError, LookupError):
    """A model, data set or initializer that does not exist."""


class ModelError(NTeleportError, ValueError):
    """A model or an initializer that cannot be built: unknown arguments, or images of a wrong size."""


class CheckpointError(NTeleportError):
    """A file of weights that cannot be read or written, or whose names or shapes do not fit the network."""


class DatasetError(NTeleportError):
    """A data set that is neither on this machine nor downloadable, or whose files are damaged."""


class JobError(NTeleportError):
    """A job that cannot be started or continued: an unwritable folder, a damaged checkpoint."""


class PluginError(NTeleportError):
    """A Python file of the user's that cannot be read, or that raises an error when it is run."""


class ResultsError(NTeleportError):
    """Results on disk that are missing, unfinished or cannot be read."""


class StudyError(NTeleportError):
    """Settings of a study that do not go together."""


class MissingExtraError(NTeleportError, ImportError):
    """An optional package that is missing; an extra of nteleport installs it."""


class SlurmError(NTeleportError):
    """A SLURM cluster that is unavailable, or that refuses a request."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the choice closest to `name`, or `""` if none is; case is ignored.

    Completions come first: `inter` begins `inter_landscape`, though it looks more like `centered`.

    Example:
        >>> nearest("SDG", ["SGD", "Adam"])
        ", did you mean 'SGD'?"
    """
    by_folded = {choice.casefold(): choice for choice in choices}
    folded = name.casefold()
    longer = sorted((choice for choice in by_folded if choice.startswith(folded)), key=len)
    matches = (
        longer
        if len(folded) > 2 and longer
        else difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    )
    return f", did you mean {by_folded[matches[0]]!r}?" if matches else ""
