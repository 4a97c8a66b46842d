"""The callback of transformers' Trainer against plain loops, and trainings that were never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nteleport import analyze, attach, sample_cob, teleport_
from nteleport.core.cob import admitted_cob
from nteleport.errors import CheckpointError, TeleportationError
from nteleport.randomness import generator_for

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
from nteleport.integrations.transformers import TeleportCallback  # noqa: E402

X = torch.linspace(-1, 1, 48).reshape(12, 4).sin()
Y = torch.arange(12) % 3
DATA = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]


class Classifier(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [
            nn.Linear(4, 8),
            nn.ReLU(),
            nn.Linear(8, 6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(6, 3),
        ]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": F.cross_entropy(logits, labels), "logits": logits}
        )


class StopBefore(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        control.should_training_stop = state.global_step == self._step


class InOrder(transformers.Trainer):  # type: ignore[misc]
    """Does not shuffle."""

    def _get_train_sampler(self, *given: Any) -> Any:
        return torch.utils.data.SequentialSampler(DATA)


@pytest.fixture(autouse=True)
def _keep_random_state() -> Iterator[None]:
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


def fit(
    out: Path,
    callback: Any,
    module: nn.Module,
    *,
    steps: int = -1,
    resume: Any = None,
    trainer_class: Any = transformers.Trainer,
    **options: Any,
) -> list[float]:
    """Train for four epochs of three steps, or stop after so many; returns the losses."""
    arguments = transformers.TrainingArguments(
        str(out),
        num_train_epochs=4,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        **{"save_strategy": "no", **options},
    )
    trainer = trainer_class(module, arguments, train_dataset=DATA, callbacks=[callback, StopBefore(steps)])
    trainer.train(resume_from_checkpoint=resume)
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("activations", ["kept", "conjugated"])
def test_a_training_is_that_of_a_loop_in_plain_pytorch(activations: Any, tmp_path: Path) -> None:
    callback = TeleportCallback({"epochs": [0, 2]}, activations=activations, cob_range=0.7)
    trained = Classifier()
    options = {"lr_scheduler_type": "constant", "max_grad_norm": 0.5}
    fit(tmp_path, callback, trained, trainer_class=InOrder, **options)

    module = Classifier()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02, weight_decay=0.0, fused=True)
    quiver = analyze(module, {"x": X[:4]}, activations=activations)
    attachment = attach(optimizer, module, quiver) if activations == "conjugated" else None
    current = torch.ones(quiver.cob_size, dtype=torch.float64)
    for step in range(12):
        if step in (0, 6):
            generator = generator_for("teleport", 0, "epoch", step // 3)
            drawn = sample_cob(quiver.cob_size, 0.7, "intra_landscape", generator=generator)
            cob = admitted_cob(quiver, drawn, generator).double()
            if attachment is not None:
                attachment.teleport(cob, "transport")
            else:
                teleport_(module, {"x": X[:4]}, cob=cob / current, quiver=quiver, optimizer=optimizer)
            current = cob
        optimizer.zero_grad()
        batch = slice(4 * (step % 3), 4 * (step % 3) + 4)
        module(X[batch], Y[batch])["loss"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)  # of the plain gradients, as Trainer does
        optimizer.step()
    assert equal(trained, module)
    assert len(callback.certificates) == (2 if activations == "kept" else 0)
    assert all(each.relative < 1e-5 for each in callback.certificates)


@pytest.mark.parametrize("activations", ["kept", "conjugated"])
def test_a_training_resumed_within_an_epoch_is_one_that_never_stopped(
    activations: Any, tmp_path: Path
) -> None:
    def callback(**options: Any) -> Any:
        return TeleportCallback({"epochs": [1, 3]}, activations=activations, **options)

    saving = {"save_strategy": "steps", "save_steps": 5}
    through, first, resumed = (Classifier(dropout=0.1) for _ in range(3))
    losses = fit(tmp_path / "through", callback(), through, **saving)
    fit(tmp_path / "resumed", callback(), first, steps=5, **saving)
    checkpoint = tmp_path / "resumed" / "checkpoint-5"
    assert (checkpoint / "nteleport.pt").is_file()

    saved = Classifier()
    saved.load_state_dict(_weights(checkpoint))
    assert torch.equal(saved.eval()(X)["logits"], first.eval()(X)["logits"])  # the plain weights

    assert fit(tmp_path / "resumed", callback(), resumed, resume=True, **saving) == losses
    assert equal(resumed, through)

    elsewhere = Classifier(dropout=0.1)
    moved = shutil.move(checkpoint, tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"no folder .*checkpoint-5: give .* resume_from"):
        fit(tmp_path / "resumed", callback(), elsewhere, resume=str(moved))
    assert fit(tmp_path / "new", callback(resume_from=moved), elsewhere, resume=str(moved)) == losses
    assert equal(elsewhere, through)

    (Path(moved) / "nteleport.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"nteleport.pt cannot be read"):
        fit(tmp_path / "new", callback(resume_from=moved), Classifier(), resume=str(moved))


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    for name, seed in (("one", 0), ("other", 7)):
        callback = TeleportCallback({"every_n_steps": 2}, seed=seed)
        fit(tmp_path / name, callback, Classifier(), steps=4, **saving)
    wrong = TeleportCallback({"every_n_steps": 2}, resume_from=tmp_path / "other" / "checkpoint-4")
    with pytest.raises(CheckpointError, match="belongs to other weights"):
        fit(tmp_path / "one", wrong, Classifier(), resume=True)


def test_an_optimizer_is_given_back_and_trains_again(tmp_path: Path) -> None:
    callback = TeleportCallback({"epochs": 0}, activations="conjugated")
    module = Classifier()
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    trainer = transformers.Trainer(module, arguments, train_dataset=DATA, callbacks=[callback])
    trainer.train()
    assert callback.attachment is None
    inner = trainer.optimizer.optimizer
    attach(inner, module, analyze(module, {"x": X})).detach()
    trainer.train()
    assert all(p.isfinite().all() for p in module.parameters())


def test_gradients_are_accumulated_over_one_teleportation(tmp_path: Path) -> None:
    callback = TeleportCallback({"every_n_steps": 1, "teleport_only_once": True}, objective="grad_norm")
    fit(tmp_path, callback, Classifier(), gradient_accumulation_steps=3)
    assert len(callback.certificates) == 1
    assert callback.cob is not None
    assert not torch.equal(callback.cob, torch.ones_like(callback.cob))


def test_a_trainer_that_does_not_call_its_model_is_one_clear_error(tmp_path: Path) -> None:
    class Direct(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **known: Any) -> Any:
            return F.cross_entropy(model.net(inputs["x"]), inputs["labels"])

    with pytest.raises(TeleportationError, match="the Classifier was not called in this step"):
        fit(tmp_path, TeleportCallback({"epochs": 0}), Classifier(), trainer_class=Direct)
