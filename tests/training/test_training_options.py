"""What a GPU user may ask for, `precision`, `compile`, `channels_last` and `fused`: right on the CPU too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import CPU, run, small_job
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from nteleport import TeleportedOptimizer, analyze, sample_cob
from nteleport.jobs.job import Component, Job
from nteleport.training.assembly import assemble
from nteleport.training.device import arithmetic, find_device, forward_of
from nteleport.training.learner import evaluate, train_epoch

COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
CONVOLUTIONS = Component("squeezenet1_1", {})


def with_options(job: Job, **options: Any) -> Job:
    return replace(job, training=replace(job.training, **options))


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def small_network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    return network, torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("policy", ["reset", "transport", "keep"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_teleporting_does_not_compile_a_network_again(
    optimizer_class: type[torch.optim.Optimizer], policy: str
) -> None:
    network, images, labels = small_network()
    quiver = analyze(network, images)
    torch._dynamo.reset()
    optimizer = TeleportedOptimizer(network, quiver, optimizer_class, lr=0.01)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(compiled(images), labels).backward()
        optimizer.step()

    step()
    assert counter.frame_count == 1
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        cob = sample_cob(quiver.cob_size, 0.5, "inter_landscape", generator=generator)
        optimizer.teleport(cob, policy)
        step()

    assert counter.frame_count == 1
    assert counters["stats"]["unique_graphs"] == 1
    step_with_another_shape = compiled(images[:5])  # that the counter does count
    assert step_with_another_shape.shape == (5, 3)
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler, and none was found")
def test_a_compiled_job_that_teleports_trains_as_one_that_is_not_compiled(tmp_path: Path) -> None:
    job = small_job("random", teleport={"every_n_epochs": 1}, epochs=3)
    expected = run(job, tmp_path).rows

    found = run(with_options(job, compile=True), tmp_path).rows

    assert [row.teleported for row in found] == [0, 1, 1]
    assert [row.train_loss for row in found] == pytest.approx([row.train_loss for row in expected], rel=1e-4)
    assert [row.val_loss for row in found] == pytest.approx([row.val_loss for row in expected], rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 2  # training and evaluation


def test_tf32_is_allowed_for_its_job_alone() -> None:
    """The switches are torch's own, and can be set without a GPU."""

    def switches() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = switches()
    with arithmetic("tf32", torch.device("cuda")):
        assert switches() == ("high", True)
        with arithmetic("fp32", torch.device("cuda")):
            assert switches() == ("highest", False)
        assert switches() == ("high", True)
    assert switches() == before


def test_tf32_changes_nothing_on_a_cpu(tmp_path: Path) -> None:
    job = small_job("random", epochs=2)
    expected = run(job, tmp_path).rows
    assert run(with_options(job, precision="tf32"), tmp_path).rows == expected


def test_bf16_computes_layers_in_bfloat16_and_the_loss_and_gradients_in_float32(tmp_path: Path) -> None:
    learner = assemble(
        with_options(small_job("random"), precision="bf16"), data_dir=tmp_path, device=CPU
    ).learner
    cob = sample_cob(learner.optimizer.quiver.cob_size, 0.5, "inter_landscape")
    learner.optimizer.teleport(cob)
    images, labels = torch.randn(4, 1, 32, 32), torch.tensor([1, 2, 3, 4])

    logits = learner.backward(images, labels)

    with torch.no_grad():
        assert learner.loss(images, labels).dtype == torch.float32
        expected = learner.network(images)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.02)
    in_float32 = [
        learner.optimizer.cob,
        *learner.optimizer.scales().values(),
        *learner.optimizer.teleported_weights().values(),
        *learner.optimizer.teleported_gradients().values(),
    ]
    assert {tensor.dtype for tensor in in_float32} == {torch.float32}
    torch.testing.assert_close(learner.optimizer.cob, cob, rtol=0, atol=0)


def test_bf16_computes_the_same_function_at_teleported_weights(tmp_path: Path) -> None:
    """The network itself stays plain, so that a teleportation changes no bit of it."""
    job = with_options(small_job("random"), precision="bf16")
    learner = assemble(job, data_dir=tmp_path, device=CPU).learner
    images = torch.randn(4, 1, 32, 32)
    before = learner.forward(images)
    learner.optimizer.teleport(sample_cob(learner.optimizer.quiver.cob_size, 0.9, "inter_landscape"))
    assert torch.equal(learner.forward(images), before)


def test_channels_last_hands_the_network_images_of_that_layout() -> None:
    seen: list[Tensor] = []

    class Looking(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images

    images = torch.randn(2, 3, 5, 5)
    forward = forward_of(Looking(), CPU, precision="fp32", compile=False, channels_last=True)
    torch.testing.assert_close(forward(images), images)
    assert seen[0].stride() == (75, 1, 15, 3)


@pytest.mark.parametrize("optimizer", [Component("SGD", {"lr": 0.01}), Component("Adam", {"lr": 1e-3})])
def test_teleporting_keeps_the_layout_of_channels_last_weights(optimizer: Component, tmp_path: Path) -> None:
    job = small_job("random", optimizer=optimizer, model=CONVOLUTIONS, batch_size=4, channels_last=True)
    learner = assemble(job, data_dir=tmp_path, device=CPU).learner
    kernels = [p for p in learner.network.parameters() if p.dim() == 4 and p.shape[2] > 1]
    learner.optimizer.teleport(sample_cob(learner.optimizer.quiver.cob_size, 0.5, "inter_landscape"))
    batch = torch.randn(4, 1, 32, 32), torch.tensor([1, 2, 3, 4])
    learner.backward(*batch)
    learner.step(*batch)
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize(
    ("name", "fused", "expected"),
    [
        ("SGD", "auto", True),
        ("Adam", "auto", True),
        ("Adam", False, False),
        ("Adam", True, True),
        ("Rprop", "auto", None),  # torch has no fused form of it
    ],
)
def test_fused_is_chosen_where_torch_has_it(
    name: str, fused: bool | str, expected: bool | None, tmp_path: Path
) -> None:
    job = small_job(optimizer=Component(name, {"lr": 0.01}), fused=fused)
    optimizer = assemble(job, data_dir=tmp_path, device=CPU).learner.optimizer.optimizer
    assert optimizer.param_groups[0].get("fused") is expected


def test_options_are_hyper_parameters_of_the_job_and_tell_jobs_apart() -> None:
    options = {"precision": "bf16", "compile": True, "channels_last": True, "fused": False}
    plain = small_job()
    job = with_options(plain, **options)
    assert {f"training.{name}": value for name, value in options.items()}.items() <= job.hparams().items()
    assert (
        len({with_options(plain, **{name: value}).name for name, value in options.items()} | {plain.name})
        == 5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for a GPU can be detected on one only")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_an_epoch_never_waits_for_the_gpu(optimizer: str, tmp_path: Path) -> None:
    device = find_device("cuda")
    job = small_job("random", optimizer=Component(optimizer, {"lr": 0.01}), max_batch=None)
    assembly = assemble(job, data_dir=tmp_path, device=device)
    cob = sample_cob(assembly.learner.optimizer.quiver.cob_size, 0.9, "inter_landscape")
    assembly.learner.optimizer.teleport(cob.to(device))
    train_epoch(assembly.learner, assembly.training_batches(0, 0))  # what libraries set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_epoch(assembly.learner, assembly.training_batches(0, 1))
        evaluate(assembly.learner, assembly.evaluation_batches(assembly.test))
    finally:
        torch.cuda.set_sync_debug_mode("default")
