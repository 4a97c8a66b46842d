"""Whatever bytes a file holds, its reader returns or raises an `NTeleportError`.

Data files, and the files of a job for people and plots, have such tests of their own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.training_jobs import small_job
from torch import nn

from nteleport.checkpoints.files import read_checkpoint
from nteleport.checkpoints.fitting import load_into
from nteleport.errors import NTeleportError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import cells
from nteleport.jobs.paths import JobPaths
from nteleport.studies.study import load_study
from nteleport.training.checkpoint import intact_checkpoints

EXPERIMENT = b"""datasets: [digits]
models: [mlp]
optimizers: [{cls: SGD, lr: 0.1}]
teleportations: {teleport: {mode: random}}
"""
STUDY = b"study: gradients\nmodels: [mlp]\nranges: 3\n"
WORDS = b"datasets models optimizers teleportations teleport mode random cls lr runs .nan 1e400 0x1F ~ 1_000"
SIGNS = [b": ", b"\n", b"- ", b"&a ", b"*a", b"<<: ", b"!!python/object ", b"\x00", b"\xff", b"\t"]
YAML_PIECES = st.sampled_from([*WORDS.split(), *SIGNS, *(bytes([sign]) for sign in b"[{}]|>'\"#?")])
SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Anything; pieces of YAML; or a good file with some bytes replaced, cut off or inserted."""
    place = st.integers(0, len(whole))
    edits = st.lists(
        st.tuples(place, st.integers(0, 20), st.binary(max_size=12) | YAML_PIECES), min_size=1, max_size=6
    )

    def edit(changes: list[tuple[int, int, bytes]]) -> bytes:
        content = whole
        for start, length, new in changes:
            content = content[:start] + new + content[start + length :]
        return content

    return st.binary(max_size=300) | st.lists(YAML_PIECES, max_size=40).map(b"".join) | edits.map(edit)


@SETTINGS
@given(damaged(EXPERIMENT))
@example(EXPERIMENT)
def test_any_experiment_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "experiment.yml"
    path.write_bytes(content)
    with contextlib.suppress(NTeleportError):
        cells(load_experiment(path))


@SETTINGS
@given(damaged(STUDY))
@example(STUDY)
def test_any_settings_of_a_study_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yml"
    path.write_bytes(content)
    with contextlib.suppress(NTeleportError):
        load_study(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small file as `torch.save` writes it."""
    path = tmp_path_factory.mktemp("saved") / "w.pt"
    torch.save({"weights": nn.Linear(2, 1).state_dict(), "format": 1, "job": "x"}, path)
    return path.read_bytes()


@SETTINGS
@given(st.data())
def test_any_file_of_weights_is_loaded_or_refused(tmp_path: Path, saved: bytes, data: st.DataObject) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(data.draw(damaged(saved)))
    with contextlib.suppress(NTeleportError):
        load_into(nn.Linear(2, 1), read_checkpoint(path))


@SETTINGS
@given(st.data())
def test_any_checkpoint_is_loaded_or_passed_over(tmp_path: Path, saved: bytes, data: st.DataObject) -> None:
    job = small_job()
    paths = JobPaths(tmp_path, job.name)
    paths.directory.mkdir(exist_ok=True)
    paths.checkpoint.write_bytes(data.draw(damaged(saved)))
    warnings: list[str] = []
    with contextlib.suppress(NTeleportError):
        assert not list(intact_checkpoints(paths, job.digest, warnings.append))
        assert len(warnings) == 1


@SETTINGS
@given(st.data())
def test_any_safetensors_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "w.safetensors"
    path.write_bytes(data.draw(damaged(safetensors.save(nn.Linear(2, 1).state_dict()))))
    with contextlib.suppress(NTeleportError):
        load_into(nn.Linear(2, 1), read_checkpoint(path))
