"""Where results come from: code, versions, hardware and times, as recorded in `provenance.json`."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import nteleport
from nteleport.jobs.atomic import write_json_atomic
from nteleport.jobs.records import read_provenance
from nteleport.plugins import admitted
from nteleport.training.device import device_name

if TYPE_CHECKING:
    from nteleport.jobs.paths import JobPaths


_ALWAYS = ("python", "torch", "nteleport", "torchvision", "git")
_LIBRARIES = ("timm", "transformers")
"""Recorded in a process that uses them."""


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "nteleport": nteleport.__version__,
    }
    try:
        found["torchvision"] = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        found["torchvision"] = "none"
    found.update({name: metadata.version(name) for name in _LIBRARIES if name in sys.modules})
    found.update({plugin.path.name: plugin.digest[:12] for plugin in admitted()})
    commit, dirty = source_revision()
    if commit is not None:
        found["git"] = f"{commit}{' with changes' if dirty else ''}"
    return found


def changes_since(before: Mapping[str, str]) -> list[str]:
    """What differs from earlier `versions`, as "torch 2.6 and continues with 2.7"."""
    return [
        f"{name} {before.get(name)} and continues with {version}"
        for name, version in versions().items()
        if before.get(name) != version and (name in before or name in _ALWAYS)
    ]


@lru_cache(maxsize=1)
def source_revision() -> tuple[str | None, bool | None]:
    """The git commit of nteleport's own source, and whether tracked files differ; None without a checkout."""
    here = Path(nteleport.__file__).parent
    if (
        _git(here, "ls-files", "--error-unmatch", "__init__.py") is None
    ):  # some other project's repository, or none
        return None, None
    commit = _git(here, "rev-parse", "HEAD")
    return commit, bool(_git(here, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def begin_provenance(
    paths: JobPaths,
    *,
    start: datetime,
    device: torch.device,
    first_epoch: int,
    command: Sequence[str],
    analysis_seconds: float,
) -> None:
    """Write `provenance.json` for a training run that starts or resumes now, keeping the record of earlier
    ones. No epoch of `metrics.csv` counts the seconds of the analysis.
    """
    commit, dirty = source_revision()
    earlier = read_provenance(paths)
    plugins = [
        {"module": plugin.module, "path": str(plugin.path), "sha256": plugin.digest} for plugin in admitted()
    ]
    write_json_atomic(
        paths.provenance,
        {
            "command": shlex.join(command),
            "start": start.isoformat(timespec="seconds"),
            "end": None,
            "first_epoch": first_epoch,
            "host": platform.node(),
            "platform": platform.platform(),
            "device": str(device),
            "device_name": device_name(device),
            "analysis_seconds": analysis_seconds,
            "threads": torch.get_num_threads(),
            "git_commit": commit,
            "git_dirty": dirty,
            **({"plugins": plugins} if plugins else {}),
            "versions": {key: value for key, value in versions().items() if key != "git"},
            "earlier": [*earlier.pop("earlier", []), earlier] if earlier else [],
        },
    )


def end_provenance(paths: JobPaths, end: datetime) -> None:
    """Record the time at which a training run ended or stopped."""
    write_json_atomic(paths.provenance, {**read_provenance(paths), "end": end.isoformat(timespec="seconds")})


def trained_with(paths: JobPaths) -> dict[str, str]:
    """The digest of each plugin that a job was last trained with, by module."""
    recorded = read_provenance(paths).get("plugins")
    found: dict[str, str] = {}
    for plugin in recorded if isinstance(recorded, list) else []:
        if isinstance(plugin, dict) and isinstance(plugin.get("module"), str):
            found[plugin["module"]] = str(plugin.get("sha256"))
    return found
