"""An epoch of batches, made on the device that holds the data.

All randomness of an epoch, its order and the crop and flip of each image, is drawn at once on the CPU from
the passed generator and moved to the device in one piece, so a CPU and a GPU see the same epoch and nothing
waits for the device. Then a stretch of several batches at a time is gathered, cropped and flipped as bytes,
and normalized, in a handful of tensor operations; the batches are views of it. Crop and flip are one gather:
pixel (y, x) of the result comes from (y + dy, x + dx), or (y + dy, W − 1 − x + dx) if flipped, of the image
padded with black.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from nteleport.data.splits import Split
from nteleport.errors import DatasetError
from nteleport.randomness import generator_for

EVALUATION_BATCH = 256
"""Images that are evaluated at once: without gradients, larger batches gain nothing."""

CROP_PADDING = 4
"""Black pixels added on every side before a random crop of the original size."""

_STRETCH_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
"""Values prepared at once: on a CPU what stays in its cache, on a GPU enough to hide kernel launches."""


def num_batches(
    split: Split | int, *, batch_size: int, drop_last: bool = False, max_batch: int | None = None
) -> int:
    """How many batches ``batches`` yields, for a split or a number of images.

    Args:
        split: the split, or how many images it has.
        batch_size: images per batch.
        drop_last: leave out a last batch that is not full.
        max_batch: at most this many batches; None for all.

    Raises:
        DatasetError: there would be no batch.
    """
    images = split if isinstance(split, int) else len(split)
    full, rest = divmod(images, batch_size) if batch_size > 0 else (0, 0)
    count = full + (rest > 0 and not drop_last)
    count = count if max_batch is None else min(count, max_batch)
    if count < 1:
        raise DatasetError(
            f"no batch can be made of {images} images with batch_size {batch_size}, drop_last {drop_last} "
            f"and max_batch {max_batch}: expected batch_size from 1 to {images} and max_batch of at least 1"
        )
    return count


def batches(
    split: Split,
    *,
    batch_size: int,
    generator: torch.Generator | None = None,
    shuffle: bool | None = None,
    augment: bool = False,
    drop_last: bool = False,
    max_batch: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of batches, on the split's device.

    Args:
        split: the data.
        batch_size: images per batch; the last one may be smaller.
        generator: a CPU generator, usually ``generator_for("epoch", seed, epoch)``; the draw is made before
            the first batch.
        shuffle: in random order; by default, if there is a generator.
        augment: random crops of the image padded with 4 black pixels, and random horizontal flips.
        drop_last: leave out a last batch that is not full.
        max_batch: at most this many batches.

    Returns:
        An iterator of normalized float32 images ``[B, C, H, W]`` and int64 labels ``[B]``, or what else the
        split holds.

    Raises:
        DatasetError: there would be no batch, or a random epoch was asked for without a generator.
    """
    shuffle = generator is not None if shuffle is None else shuffle
    if generator is None and (shuffle or augment):
        raise DatasetError("a shuffled or augmented epoch needs a generator")
    count = num_batches(split, batch_size=batch_size, drop_last=drop_last, max_batch=max_batch)
    used = min(count * batch_size, len(split))
    rows = crops = None
    if shuffle:
        rows = torch.randperm(len(split), generator=generator)[:used].to(split.device, non_blocking=True)
    if augment:
        crops = _draw_crops(used, generator).to(split.device, non_blocking=True)
    return _stretches(split, rows, crops, used, batch_size)


def _draw_crops(images: int, generator: torch.Generator | None) -> Tensor:
    """``[3, images]``: vertical and horizontal offset of each crop (0 … 8), and whether it is flipped."""
    offsets = torch.randint(0, 2 * CROP_PADDING + 1, (2, images), generator=generator)
    flips = torch.randint(0, 2, (1, images), generator=generator)
    return torch.cat((offsets, flips))


def _stretches(
    split: Split, rows: Tensor | None, crops: Tensor | None, used: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    elements = _STRETCH_ELEMENTS.get(split.device.type, _STRETCH_ELEMENTS["cuda"])
    stretch = max(1, elements // (batch_size * split.images[0].numel())) * batch_size
    for start in range(0, used, stretch):
        end = min(start + stretch, used)
        if rows is None:
            images, labels = split.images[start:end], split.labels[start:end]
        else:
            images = split.images.index_select(0, rows[start:end])
            labels = split.labels.index_select(0, rows[start:end])
        if crops is not None:
            images = crop_and_flip(images, *crops[:, start:end])
        yield from zip(split.normalized(images).split(batch_size), labels.split(batch_size), strict=True)


def crop_and_flip(images: Tensor, down: Tensor, right: Tensor, flipped: Tensor) -> Tensor:
    """Crop each image at its own position after padding it with black, and mirror some of them.

    Args:
        images: uint8 ``[B, C, H, W]``.
        down, right: int64 ``[B]``, 0 … 8: where the crop starts in the padded image; 4 moves nothing.
        flipped: int64 ``[B]``: 1 mirrors the crop left to right, 0 leaves it.

    Returns:
        uint8 ``[B, C, H, W]``.
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (CROP_PADDING,) * 4).flatten(2)
    across = torch.arange(width, device=images.device)
    columns = right[:, None] + torch.where(flipped[:, None] == 1, width - 1 - across, across)
    lines = (down[:, None] + torch.arange(height, device=images.device)) * (width + 2 * CROP_PADDING)
    places = (lines[:, :, None] + columns[:, None, :]).view(count, 1, height * width)
    return padded.gather(2, places.expand(-1, channels, -1)).view(count, channels, height, width)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split off a validation set: ``(rest, held out)``; the same seed holds out the same images.

    Stratified: of each class, ``fraction`` of its images, rounded, are held out; targets that are numbers
    count as one class. Within each part the images keep their order.

    Args:
        split: the training split.
        fraction: in (0, 1).
        seed: usually the job's seed.

    Raises:
        DatasetError: the fraction is not in (0, 1), or would leave one of the parts empty.
    """
    labels = split.labels.cpu()
    if labels.is_floating_point():
        labels = torch.zeros(len(labels), dtype=torch.int64)
    generator = generator_for("epoch", seed, -1)  # separate from the generators of all epochs
    # Shuffle, then sort by label: each class is a run in random order, of which the first are held out.
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.sort(labels[shuffled], stable=True).indices]
    sizes = torch.bincount(labels)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    quota = torch.repeat_interleave((sizes * fraction).round().long(), sizes)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class] = torch.arange(len(labels)) - starts < quota
    if not 0 < fraction < 1 or not held.any() or held.all():
        raise DatasetError(
            f"validation {fraction} of {len(labels)} training images cannot be held out: expected a fraction "
            "between 0 and 1 that leaves images in both parts"
        )
    rest, kept = (torch.nonzero(mask).flatten().to(split.device) for mask in (~held, held))
    return split.select(rest), split.select(kept)


def some_of(split: Split, count: int, seed: int) -> Split:
    """At most ``count`` images of a split, drawn at random; the same seed draws the same ones.

    Of two counts the smaller draws a part of the larger. The images keep their order.

    Args:
        split: usually what ``hold_out`` leaves.
        count: at least 1.
        seed: usually the job's seed.
    """
    if count >= len(split):
        return split
    drawn = torch.randperm(len(split), generator=generator_for("epoch", seed, -2))[:count]
    return split.select(drawn.sort().values.to(split.device))
