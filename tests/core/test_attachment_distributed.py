"""Teleported training by several processes, on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nteleport import Quiver, analyze, attach, sample_cob
from nteleport.errors import TeleportationError

PROCESSES = 2
X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
Y = torch.arange(8) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)).double()


def trained(module: nn.Module, quiver: Quiver, cob: Tensor, images: Tensor, labels: Tensor) -> list[Tensor]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    attach(optimizer, module, quiver).teleport(cob)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def process(rank: int, folder: str) -> None:
    """Trains its part of the batch, and tries a sharded network."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    quiver = analyze(network(), X)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=torch.Generator().manual_seed(1))
    part = slice(rank, None, PROCESSES)
    weights = trained(DistributedDataParallel(network()), quiver, cob, X[part], Y[part])
    torch.save(weights, Path(folder, f"ddp{rank}.pt"))
    sharded = network()
    torch.distributed.fsdp.fully_shard(sharded)
    try:
        attach(torch.optim.AdamW(sharded.parameters()), sharded, quiver)
    except TeleportationError as error:
        Path(folder, f"fsdp{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not dist.is_gloo_available(), reason="needs gloo")
def test_data_parallel_training_is_training_on_the_whole_batch_and_shards_are_refused(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=PROCESSES)
    quiver = analyze(network(), X)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=torch.Generator().manual_seed(1))
    expected = trained(network(), quiver, cob, X, Y)
    for rank in range(PROCESSES):
        weights = torch.load(tmp_path / f"ddp{rank}.pt")
        for a, b in zip(weights, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        message = (tmp_path / f"fsdp{rank}.txt").read_text()
        assert message.startswith("parameter 0.weight is a DTensor: only whole tensors can be scaled")
