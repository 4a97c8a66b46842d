"""The networks whose arrays the published implementation computed (``reference/README.md``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leakyrelu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
NAMES = (*(f"mlp_{name}" for name in ACTIVATIONS), "conv_batchnorm", "residual", "dense_upsample")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.short = nn.Conv2d(6, 8, 1, stride=2, bias=False)
        self.bns = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(x))
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(x + h)
        shortcut = self.bns(self.short(x))
        h = self.bn3(self.conv3(x))
        x = F.relu(shortcut + h)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseUpsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 3, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(7)
        self.conv2 = nn.Conv2d(7, 3, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.convt = nn.ConvTranspose2d(10, 4, 2, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.conv0(x))
        b = F.relu(self.conv1(a))
        c = torch.cat((a, b), 1)
        d = self.conv2(F.relu(self.bn2(c)))
        e = torch.sigmoid(self.convt(self.up(torch.cat((c, d), 1))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(e, 2), 1))


def build(name: str) -> nn.Module:
    if name == "residual":
        return Residual()
    if name == "dense_upsample":
        return DenseUpsample()
    if name == "conv_batchnorm":
        return nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
            *(nn.Linear(32, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 5)),
        )
    act = ACTIVATIONS[name.removeprefix("mlp_")]
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), act(), nn.Linear(16, 9), act(), nn.Linear(9, 5))
