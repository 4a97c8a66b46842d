"""The callback of Lightning against loops in plain PyTorch, and against trainings that were never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nteleport import analyze, attach, choose_cob, sample_cob, teleport_
from nteleport.core.cob import admitted_cob
from nteleport.errors import TeleportationError
from nteleport.randomness import generator_for

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
from nteleport.integrations.lightning import Teleport  # noqa: E402

X = torch.linspace(-1, 1, 48).reshape(12, 4).sin()
Y = torch.arange(12) % 3
BATCHES = [[X[i : i + 4], Y[i : i + 4]] for i in range(0, 12, 4)]


class Classifier(pl.LightningModule):  # type: ignore[misc]
    """A network that remembers its losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
        self.net = nn.Sequential(*layers)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


@pytest.fixture(autouse=True)
def _keep_random_state() -> Iterator[None]:
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


def fit(
    *callbacks: Any, epochs: int = 1, module: Any = None, resume: Path | None = None, **options: Any
) -> tuple[Any, Any]:
    """The module and its trainer."""
    module = module or Classifier()
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(BATCHES, batch_size=None), ckpt_path=resume)
    return module, trainer


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def loss_of(module: nn.Module, optimizer: Any, step: int) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(module(BATCHES[step % 3][0]), BATCHES[step % 3][1])
    loss.backward()
    return loss


@pytest.mark.parametrize("activations", ["kept", "conjugated"])
def test_a_training_is_that_of_a_loop_in_plain_pytorch(activations: Any) -> None:
    callback = Teleport(
        {"every_n_steps": 2}, activations=activations, cob_range=0.7, sampling="inter_landscape"
    )
    trained, _ = fit(callback, epochs=2, module=Classifier())

    module = Classifier()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    quiver = analyze(module, X[:4], activations=activations)
    attachment = attach(optimizer, module, quiver) if activations == "conjugated" else None
    current = torch.ones(quiver.cob_size, dtype=torch.float64)
    for step in range(6):
        if step in (2, 4):
            generator = generator_for("teleport", 0, "step", step)
            drawn = sample_cob(quiver.cob_size, 0.7, "inter_landscape", generator=generator)
            cob = admitted_cob(quiver, drawn, generator).double()
            if attachment is not None:
                attachment.teleport(cob, "transport")
            else:
                teleport_(module, X[:4], cob=cob / current, quiver=quiver, optimizer=optimizer)
            current = cob
        optimizer.step(partial(loss_of, module, optimizer, step))  # as Lightning does, with a closure
    assert equal(trained, module)
    assert callback.cob is not None
    torch.testing.assert_close(callback.cob.double(), current)
    assert len(callback.certificates) == (2 if activations == "kept" else 0)
    assert all(each.relative < 1e-5 for each in callback.certificates)


@pytest.mark.parametrize("activations", ["kept", "conjugated"])
def test_a_resumed_training_is_one_that_never_stopped(activations: Any, tmp_path: Path) -> None:
    def callback() -> Any:
        return Teleport({"epochs": [1, 3]}, activations=activations)

    file = tmp_path / "epoch-2.ckpt"
    through, _ = fit(callback(), epochs=4)
    first, trainer = fit(callback(), epochs=2)
    trainer.save_checkpoint(file)
    content = torch.load(file, weights_only=True)
    fresh = Classifier()
    fresh.load_state_dict(content["state_dict"])
    assert torch.equal(fresh.eval()(X), first.eval()(X))  # what is saved are the plain weights

    continued, _ = fit(callback(), epochs=4, resume=file)
    assert continued.losses == through.losses[6:]
    assert equal(continued, through)


def test_gradients_are_accumulated_over_one_teleportation() -> None:
    callback = Teleport({"every_n_steps": 1, "teleport_only_once": True})
    fit(callback, epochs=2, accumulate_grad_batches=3)
    assert len(callback.certificates) == 1


def test_a_submodule_is_teleported_for_an_objective_on_the_batch_at_hand() -> None:
    module = Classifier()
    quiver = analyze(module.net, X[:4], activations="kept")
    wanted = choose_cob(
        quiver,
        module.net,
        "grad_norm",
        batches=[(X[:4], Y[:4])],
        generator=generator_for("teleport", 0, "epoch", 0),
    ).cob
    callback = Teleport({"epochs": 0}, network="net", objective="grad_norm")
    fit(callback, module=module)
    assert callback.cob is not None
    assert torch.equal(callback.cob, wanted.double())
    assert not torch.equal(wanted, torch.ones_like(wanted))


def test_what_cannot_be_teleported_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TeleportationError, match="no submodule 'network', expected one of net"):
        fit(Teleport({"epochs": 0}, network="network"))
    with pytest.raises(TeleportationError, match=r"nothing of Linear can be teleported .* kept"):
        fit(Teleport({"epochs": 0}, network="net.0"))
    other = Classifier()
    other.configure_optimizers = lambda: torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(TeleportationError, match="SGD trains no parameter of this Classifier"):
        fit(Teleport({"epochs": 0}), module=other)
    saved = Teleport({"epochs": 0})
    _, trainer = fit(saved)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    with pytest.raises(TeleportationError, match="saved with activations kept"):
        fit(Teleport({"epochs": 0}, activations="conjugated"), epochs=2, resume=tmp_path / "kept.ckpt")


def test_several_optimizers_are_refused() -> None:
    class Adversarial(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            halves = (self.net[:3].parameters(), self.net[3:].parameters())
            return [torch.optim.SGD(half, lr=0.1) for half in halves]

    with pytest.raises(TeleportationError, match="expected one optimizer, and there are 2"):
        fit(Teleport({"epochs": 0}), module=Adversarial())
