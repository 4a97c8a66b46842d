"""Whatever happens to standard output and standard error, a training finishes and leaves no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPERIMENT = """
datasets: [digits]
models: [{cls: mlp, hidden_layers: [8]}]
optimizers: [{cls: SGD, lr: 0.1}]
training_params: {epochs: 1, batch_size: 64, max_batch: 1}
runs_per_config: 2
"""
pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run `nteleport` in a shell, as `N` in the command."""
    (folder / "e.yml").write_text(EXPERIMENT)
    words = ["bash", "-c", f"N='{sys.executable} -m nteleport'; {command}"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("2>/dev/full", 0),
        (">/dev/full", 1),  # the summary is lost, and the exit code says so
        ("--jobs 2 >&- 2>&-", 0),
        ("--jobs 2 >/dev/full 2>/dev/full", 1),
    ],
)
def test_a_training_finishes_whatever_its_streams_are(streams: str, code: int, tmp_path: Path) -> None:
    done = shell(tmp_path, f"$N train e.yml --out out --device cpu {streams}")
    assert len(list(tmp_path.glob("out/*/result.json"))) == 2
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_training_outlives_the_reader_of_its_progress(tmp_path: Path) -> None:
    done = shell(tmp_path, "($N train e.yml --out out --device cpu 2>&1 >&-; echo $? > code) | true")
    assert len(list(tmp_path.glob("out/*/result.json"))) == 2
    assert (tmp_path / "code").read_text() == "0\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", ["--help", "unravel e.yml --out cells", "train e.yml --out out --dry-run"]
)
def test_output_that_cannot_be_written_is_one_message(arguments: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"$N {arguments} >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write the output: No space left on device\n"


def test_a_training_outlives_its_terminal(tmp_path: Path) -> None:
    """SIGHUP is what a process gets when its terminal is closed."""
    (tmp_path / "e.yml").write_text(EXPERIMENT.replace("epochs: 1", "epochs: 200"))
    command = [sys.executable, "-m", "nteleport", "train", "e.yml", "--out", "out", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("out/*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert len(list(tmp_path.glob("out/*/result.json"))) == 2
    process.communicate()
