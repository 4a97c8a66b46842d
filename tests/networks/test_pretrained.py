"""Pretrained weights: loaded where shapes fit, fetched before a run, one clear error without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from support.training_jobs import run_options, small_job
from torchvision import models

from nteleport.errors import ModelError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Component
from nteleport.networks.models import build_model, check_model
from nteleport.networks.pretrained import load_where_shapes_fit, pretrained_weights
from nteleport.runner.preparation import prepare

CIFAR = (3, 32, 32)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What torchvision would download: a network of its own for ImageNet, drawn at random."""
    torch.manual_seed(5)
    weights = models.resnet18().state_dict()
    monkeypatch.setattr(
        models.ResNet18_Weights, "get_state_dict", lambda self, **options: weights, raising=False
    )
    return weights


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def fail(*given: Any, **options: Any) -> Any:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("stem", "left"),
    [("imagenet", {"fc.weight", "fc.bias"}), ("cifar", {"fc.weight", "fc.bias", "conv1.weight"})],
)
def test_weights_are_loaded_where_shapes_fit(
    stem: str, left: set[str], published: dict[str, torch.Tensor]
) -> None:
    network = build_model("resnet18", input_shape=CIFAR, num_classes=10, stem=stem, pretrained=True)
    for name, value in network.state_dict().items():
        if name in left:
            assert value.shape != published[name].shape
        else:
            assert torch.equal(value, published[name])


def test_weights_of_old_files_are_loaded_under_their_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    weights = models.densenet121().state_dict()
    weights = {name: w for name, w in weights.items() if not name.endswith("num_batches_tracked")}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): w for name, w in weights.items()}
    assert old.keys() != weights.keys()
    monkeypatch.setattr(
        models.DenseNet121_Weights, "get_state_dict", lambda self, **options: dict(old), raising=False
    )
    before = torch.get_rng_state()
    found = pretrained_weights("densenet121")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[name], w) for name, w in weights.items())


def test_a_layer_is_loaded_whole_or_not_at_all() -> None:
    network, source = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(3, 4, 3)
    bias = network.bias.detach().clone()
    load_where_shapes_fit(network, source.state_dict())
    assert torch.equal(network.bias, bias)


def test_without_a_network_the_error_says_which_file_goes_where(offline: Path) -> None:
    with pytest.raises(ModelError) as caught:
        build_model("resnet18", input_shape=CIFAR, num_classes=10, pretrained=True)
    message = str(caught.value)
    assert "resnet18-f37072fd.pth" in message
    assert str(offline / "checkpoints") in message
    assert "\n" not in message


def test_weights_are_fetched_before_anything_is_trained(offline: Path, tmp_path: Path) -> None:
    job = small_job(model=Component("resnet18", {"pretrained": True}))
    with pytest.raises(ModelError, match="cannot be had"):
        prepare([job], run_options(tmp_path))


def test_checking_a_model_fetches_nothing(offline: Path) -> None:
    check_model("resnet18", {"pretrained": True}, input_shape=CIFAR, num_classes=10)
    with pytest.raises(ModelError, match="pretrained is true or false"):
        check_model("resnet18", {"pretrained": "yes"}, input_shape=CIFAR, num_classes=10)
    with pytest.raises(ModelError, match="takes no argument 'pretrained'"):
        check_model("mlp", {"pretrained": True}, input_shape=CIFAR, num_classes=10)


def test_not_pretrained_is_the_same_job_as_nothing_said(tmp_path: Path) -> None:
    names = []
    for model in ("resnet18", "{cls: resnet18, pretrained: false}", "{cls: resnet18, pretrained: true}"):
        (tmp_path / "e.yml").write_text(f"datasets: [digits]\nmodels: [{model}]\noptimizers: [SGD]\n")
        names += [job.name for job in expand(load_experiment(tmp_path / "e.yml"))]
    assert names[0] == names[1] != names[2]
