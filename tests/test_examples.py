"""Every script in ``examples`` runs as it stands and trains its network."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch
from support import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"with_lightning": "lightning", "with_trainer": "transformers", "with_accelerate": "accelerate"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_trains_its_network(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = NEEDS.get(script.stem)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state()
    runpy.run_path(str(script), run_name="__main__")
    torch.random.set_rng_state(state)
    (accuracy,) = re.findall(r"training accuracy ([\d.]+)", capsys.readouterr().out)
    assert float(accuracy) > 0.95
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_shown_in_the_docs() -> None:
    page = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert f'```python title="examples/{script.name}"\n{script.read_text(encoding="utf-8")}```' in page
