"""Baseline: an epoch as it is commonly written, image by image.

torchvision's `CIFAR10` hands out one PIL image at a time, its transforms crop, flip, convert and normalize
it, a `DataLoader` collates batches, and the loss and the accuracy of every batch are read with `.item()`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

from .plain_loop import Steps

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
EVALUATION_BATCH = 256


class InMemoryCifar(CIFAR10):
    """torchvision's data set, on images that are in memory already."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, train: bool) -> None:
        augmentation = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        conversion = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([*(augmentation if train else []), *conversion])
        self.target_transform = None
        self.data, self.targets = images, labels.tolist()


class PerSamplePipeline:
    """Training and validating for an epoch.

    Args:
        train, validation: uint8 images of shape (n, 32, 32, 3), and labels.
    """

    def __init__(
        self,
        train: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        batch_size: int,
        workers: int = 0,
    ) -> None:
        self._train = DataLoader(
            InMemoryCifar(*train, train=True), batch_size, shuffle=True, drop_last=True, num_workers=workers
        )
        self._validation = DataLoader(
            InMemoryCifar(*validation, train=False), EVALUATION_BATCH, num_workers=workers
        )

    def epoch(self, network: nn.Module, optimizer: Steps) -> tuple[float, float]:
        """Train on every batch and validate; returns the validation loss and accuracy."""
        network.train()
        train_loss = train_hits = 0.0
        for images, labels in self._train:
            optimizer.zero_grad()
            logits = network(images)
            loss = cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            train_loss += loss.item()
            train_hits += (logits.argmax(1) == labels).sum().item()
        network.eval()
        loss_sum = hits = 0.0
        count = 0
        with torch.no_grad():
            for images, labels in self._validation:
                logits = network(images)
                loss_sum += cross_entropy(logits, labels, reduction="sum").item()
                hits += (logits.argmax(1) == labels).sum().item()
                count += len(labels)
        return loss_sum / count, hits / count
