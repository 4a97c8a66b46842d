"""What the README shows is true: its Python runs, its experiment loads, its commands and files exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT

from nteleport.cli.app import COMMANDS
from nteleport.experiment.matrix import expand
from nteleport.jobs.paths import JobPaths
from nteleport.runner.preflight import load_checked

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def command_lines() -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [words for words in lines if words and words[0] == "nteleport"]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The variables left after the Python blocks have run, one after the other."""
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, namespace)  # noqa: S102 - the project's own text
    return namespace


def test_the_teleportation_of_the_readme_moves_weights_and_not_outputs(names: dict[str, Any]) -> None:
    model, images = names["model"], names["images"]
    torch.testing.assert_close(model(images), names["before"], rtol=1e-4, atol=1e-5)
    assert torch.dist(model.weight_vector(), names["weights"]) > 1


def test_the_training_of_the_readme_trains_at_teleported_weights(names: dict[str, Any]) -> None:
    teleported = names["optimizer"].teleported_weights()
    for name, weight in names["network"].named_parameters():
        assert weight.isfinite().all()
        assert teleported[name].shape == weight.shape
    first = "layer1.0.conv1.weight"
    assert not torch.allclose(teleported[first], names["network"].get_parameter(first))


def test_the_ordinary_network_of_the_readme_keeps_its_outputs(names: dict[str, Any]) -> None:
    certificate = names["done"].certificate
    assert len(names["done"].cob) == 2880
    assert 0 < certificate.relative < 1e-4
    assert certificate.weights_before != certificate.weights_after


def test_teleporting_takes_ten_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10


def test_the_experiment_of_the_readme_has_no_problems(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "experiment.yml").write_text(text, encoding="utf-8")
    jobs = expand(load_checked(tmp_path / "experiment.yml"))
    assert len(jobs) == 4 * 3 * (1 + 2 * 2 + 1) * 5  # models, optimizers, teleportations, runs
    assert {job.teleportation.mode for job in jobs} == {"no_teleport", "random", "optim", "optimize"}


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_a_command_of_the_readme_exists_with_its_options_and_files(words: list[str]) -> None:
    name, arguments = words[1], words[2:]
    command = getattr(importlib.import_module(f"nteleport.cli.{name}"), name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known
    for word in arguments:
        assert not word.endswith(".yml") or (ROOT / word).is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"\bnteleport {name}\b", README)


def test_the_files_of_a_job_are_those_it_writes() -> None:
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    section = page.split("## What a job leaves behind")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `([\w.]+)`", section, flags=re.MULTILINE))
    paths = JobPaths(Path(), "job")
    kept = [
        paths.config,
        paths.hparams,
        paths.metrics,
        paths.result,
        paths.certificates,
        paths.provenance,
        paths.log,
        paths.weights,
    ]
    assert listed == {path.name for path in kept}


def test_every_link_into_the_checkout_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert all((ROOT / target).exists() for target in targets)
