"""Python files as a user would write them: networks, data sets, an optimizer and losses."""

from __future__ import annotations

from pathlib import Path

NETS = '''\
import torch
from torch import nn

number = int


class SmallNet(nn.Module):
    """For inputs of one axis."""

    def __init__(self, num_classes, input_shape, width: int = 16):
        super().__init__()
        self.first = nn.Linear(input_shape[0], width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


class Raising(nn.Module):
    """Cannot be made."""

    def __init__(self, width=1):
        raise ValueError("no such width")


class Failing(SmallNet):
    """Cannot be run."""

    def forward(self, x):
        return self.last(x @ torch.ones(99, 1))


class Images(SmallNet):
    """Returns too little."""

    def forward(self, x):
        return super().forward(x)[:, :1]


class Bag(nn.Module):
    """For texts."""

    def __init__(self, num_classes, vocabulary=30, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.hidden, self.last = nn.Linear(width, width), nn.Linear(width, num_classes)

    def forward(self, tokens):
        return self.last(torch.relu(self.hidden(self.embed(tokens).mean(1))))
'''

DATA = """\
import torch


def halves(x, y):
    n = len(x) // 2
    return (x[:n], y[:n]), (x[n:], y[n:])


def moons(n: int = 128, noise: float = 0.1):
    angle, above = torch.rand(n) * torch.pi, torch.randint(2, (n,))
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x = torch.where(above[:, None] == 1, x, torch.tensor([1.0, 0.5]) - x)
    return halves(x + noise * torch.randn(n, 2), above)


def sine(n: int = 128):
    x = torch.rand(n, 2) * 6
    return halves(x, x[:, 0].sin())


def words(n: int = 128):
    x = torch.randint(1, 30, (n, 12))
    return halves(x, (x[:, 0] > 15).long())


def raising():
    return {}["gone"]


def one_pair():
    return torch.zeros(3, 2), torch.zeros(3)


def unequal():
    return (torch.zeros(3, 2), torch.zeros(4)), (torch.zeros(3, 2), torch.zeros(3))


def infinite():
    return (torch.full((3, 2), torch.inf), torch.zeros(3)), (torch.zeros(3, 2), torch.zeros(3))
"""

OPTIM = """\
import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        if lr <= 0:
            # a rate that is no rate
            raise ValueError(f"a rate of {lr}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (first * average + (1 - first) * p.grad).sign())
                average.mul_(second).add_((1 - second) * p.grad)


class Halving(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [rate * 0.5**self.last_epoch for rate in self.base_lrs]
"""

LOSSES = """\
import torch


def focal(outputs, targets):
    log = outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return -((1 - log.exp()) ** 2 * log).mean()


def same(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)


def each(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def constant(outputs, targets):
    return torch.zeros(())
"""


def write_plugins(folder: Path) -> list[Path]:
    """Write `my_nets.py`, `my_data.py`, `my_optim.py` and `my_losses.py`; returns their paths."""
    files = {"my_nets": NETS, "my_data": DATA, "my_optim": OPTIM, "my_losses": LOSSES}
    paths = [folder / f"{name}.py" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return paths
