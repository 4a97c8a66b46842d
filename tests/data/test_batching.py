"""Data in memory: what a network sees of it, and in which order."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

from nteleport.data import batching
from nteleport.data.batching import batches, hold_out, num_batches, some_of
from nteleport.data.catalog import DATASETS, dataset_info, preprocessed
from nteleport.data.files import read_digits
from nteleport.data.splits import Split, load_dataset, random_split
from nteleport.errors import DatasetError, UnknownNameError
from nteleport.randomness import generator_for


def numbered_split(count: int, shape: tuple[int, int, int] = (1, 2, 2)) -> Split:
    """Image ``i`` is filled with the byte ``i`` and has the label ``i``."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    return Split(images, torch.arange(count))


def noise_split(count: int, shape: tuple[int, int, int]) -> Split:
    return random_split(shape, 10, count, torch.Generator().manual_seed(0))


def labels_of(split: Split, **arguments: object) -> list[int]:
    return torch.cat([labels for _, labels in batches(split, **arguments)]).tolist()


# --- the catalog and the shipped digits ---------------------------------------------------------------


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'cifar11'.*did you mean 'cifar10"):
        dataset_info("cifar11")


def test_digits_are_the_uci_test_set() -> None:
    data = load_dataset("digits", "nowhere")
    labels = torch.cat((data.train.labels, data.test.labels))
    # Class counts as the UCI repository states them.
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (len(data.train), len(data.test)) == (DATASETS["digits"].train_size, DATASETS["digits"].test_size)
    assert data.train.images.shape[1:] == data.input_shape == (1, 32, 32)


def test_a_digit_is_its_published_row_enlarged_four_times() -> None:
    # The first row of the published table; it falls into the test split as the first digit 0 of all.
    row = "0 0 5 13 9 1 0 0 0 0 13 15 10 15 5 0 0 3 15 2 0 11 8 0 0 4 12 0 0 8 8 0"
    upper_half = np.array([int(cell) for cell in row.split()]).reshape(4, 8)
    images, labels = read_digits("test")
    assert labels[0] == 0
    for y, x in itertools.product(range(16), range(32)):
        assert images[0, 0, y, x] == round(upper_half[y // 4, x // 4] * 255 / 16)


def test_each_digit_is_split_four_to_one() -> None:
    data = load_dataset("digits", "nowhere")
    counts = torch.bincount(data.train.labels) / torch.bincount(data.test.labels)
    assert ((counts > 3.8) & (counts < 4.2)).all()


def test_digits_are_standardised() -> None:
    split = load_dataset("digits", "nowhere").train
    seen = split.normalized(split.images)
    assert abs(seen.mean().item()) < 1e-3
    assert seen.std().item() == pytest.approx(1, abs=1e-3)


def test_constants_of_padded_sets_are_those_of_the_padded_pictures() -> None:
    generator = np.random.default_rng(0)
    # Pictures with exactly the published mean and deviation of Fashion-MNIST, then padded as they are served.
    pictures = generator.normal(size=(20, 28, 28))
    pictures = 0.2860 + 0.3530 * (pictures - pictures.mean()) / pictures.std()
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))
    info = DATASETS["fashion_mnist"]
    assert info.mean[0] == pytest.approx(padded.mean(), rel=1e-9)
    assert info.std[0] == pytest.approx(padded.std(), rel=1e-9)


# --- what a network sees --------------------------------------------------------------------------------


def test_normalisation_is_torchvisions() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    noise = noise_split(5, (3, 32, 32))
    split = Split(noise.images, noise.labels, mean, std)
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([pipeline(image.permute(1, 2, 0).numpy()) for image in split.images])
    ((seen, labels),) = batches(split, batch_size=5)
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(labels, split.labels)


def loop_crop(image: np.ndarray, down: int, right: int, flipped: int) -> np.ndarray:
    """One pixel at a time: the crop of an image padded with black, then mirrored."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        source_y, source_x = y + down - 4, x + right - 4
        if 0 <= source_y < height and 0 <= source_x < width:
            result[c, y, width - 1 - x if flipped else x] = image[c, source_y, source_x]
    return result


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 9)])
def test_crop_and_flip_is_the_plain_loop(shape: tuple[int, int, int]) -> None:
    places = list(itertools.product((0, 3, 4, 8), (0, 4, 5, 8), (0, 1)))
    images = noise_split(len(places), shape).images
    seen = batching.crop_and_flip(images, *torch.tensor(places).T)
    expected = [loop_crop(image.numpy(), *place) for image, place in zip(images, places, strict=True)]
    assert np.array_equal(seen.numpy(), np.stack(expected))


def test_augmentation_draws_every_place_and_flip_equally_often() -> None:
    # One bright pixel off the middle: where it ends up tells the crop and the flip.
    images = torch.zeros(16_200, 1, 32, 32, dtype=torch.uint8)
    images[:, 0, 10, 10] = 255
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    stream = batches(
        split, batch_size=500, generator=generator_for("epoch", 0, 0), shuffle=False, augment=True
    )
    seen = torch.cat([batch for batch, _ in stream])
    places = seen.flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=1024).view(32, 32)
    expected_rows = range(10 - 4, 10 + 4 + 1)
    for y, x in itertools.product(range(32), range(32)):
        reachable = y in expected_rows and (x in expected_rows or 31 - x in expected_rows)
        assert (counts[y, x] > 0) == reachable
    # 162 equally likely outcomes of 16,200 draws, 100 each: chi-squared of 161 degrees of freedom.
    chi_squared = ((counts[counts > 0].double() - 100) ** 2 / 100).sum().item()
    assert chi_squared < 161 + 5 * (2 * 161) ** 0.5


def test_augmentation_keeps_labels_with_their_images() -> None:
    split = numbered_split(200, (1, 32, 32))
    stream = batches(split, batch_size=16, generator=generator_for("epoch", 1, 0), augment=True)
    for images, labels in stream:
        # Padding is black and the crop keeps at least 28×28 of the image.
        assert torch.equal((images.amax((1, 2, 3)) * 255).round().long(), labels)


# --- the order of an epoch ------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [False, True])
def test_a_shuffled_epoch_shows_every_image_once(augment: bool) -> None:
    seen = labels_of(
        numbered_split(103), batch_size=8, generator=generator_for("epoch", 0, 0), augment=augment
    )
    assert sorted(seen) == list(range(103))
    assert seen != list(range(103))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, batch_size: int = 8) -> tuple[int, ...]:
        torch.rand(3)
        generator = generator_for("epoch", seed, epoch)
        return tuple(labels_of(numbered_split(50), batch_size=batch_size, generator=generator))

    assert order(5, 2) == order(5, 2) == order(5, 2, batch_size=50)
    # Neighbors in seed and epoch, and seeds that agree in their lower 32 bits, share nothing.
    orders = {order(seed, epoch) for seed in (5, 6, 5 + 2**32) for epoch in range(4)}
    assert len(orders) == 12


def test_without_a_generator_the_order_is_that_of_the_data() -> None:
    assert labels_of(numbered_split(20), batch_size=6) == list(range(20))


def test_shuffle_and_augmentation_are_independent() -> None:
    generator = generator_for("epoch", 0, 0)
    assert labels_of(
        numbered_split(20), batch_size=6, generator=generator, shuffle=False, augment=True
    ) == list(range(20))


@pytest.mark.parametrize("arguments", [{"shuffle": True}, {"augment": True}])
def test_randomness_without_a_generator_is_refused(arguments: dict[str, bool]) -> None:
    with pytest.raises(DatasetError, match="needs a generator"):
        batches(numbered_split(4), batch_size=2, **arguments)


@pytest.mark.parametrize("images", [1, 7, 8, 9])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("max_batch", [None, 1, 2, 50])
def test_batches_are_as_many_and_as_large_as_announced(
    images: int, drop_last: bool, max_batch: int | None
) -> None:
    arguments = {"batch_size": 4, "drop_last": drop_last, "max_batch": max_batch}
    sizes = [min(4, images - start) for start in range(0, images, 4)]
    expected = [size for size in sizes if size == 4 or not drop_last][:max_batch]
    if not expected:
        with pytest.raises(DatasetError, match="no batch can be made"):
            num_batches(images, **arguments)
        return
    split = numbered_split(images)
    assert [len(labels) for _, labels in batches(split, **arguments)] == expected
    assert num_batches(split, **arguments) == num_batches(images, **arguments) == len(expected)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(DatasetError, match="expected batch_size from 1 to 5"):
        num_batches(5, batch_size=batch_size)


def test_batches_do_not_depend_on_how_many_are_prepared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    split = noise_split(45, (3, 8, 8))

    def epoch() -> list[tuple[Tensor, Tensor]]:
        return list(batches(split, batch_size=4, generator=generator_for("epoch", 0, 0), augment=True))

    together = epoch()
    for elements in (1, 3 * 64 * 4 * 2):
        monkeypatch.setitem(batching._STRETCH_ELEMENTS, "cpu", elements)
        for (images, labels), (other_images, other_labels) in zip(together, epoch(), strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)


class Operators(TorchDispatchMode):
    """Records the name of every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_an_epoch_reads_nothing_back_and_handles_no_image_alone() -> None:
    counts = []
    for images in (64, 640):
        with Operators() as operators:
            stream = batches(
                noise_split(images, (3, 8, 8)),
                batch_size=images,
                generator=generator_for("epoch", 0, 0),
                augment=True,
            )
            for _ in stream:
                pass
        assert not {"_local_scalar_dense", "nonzero", "item", "equal"} & set(operators.names)
        counts.append(len(operators.names))
    assert counts[0] == counts[1]


# --- splitting off a validation set, random data, bad splits ----------------------------------------------


def test_hold_out_is_stratified_and_complete() -> None:
    split = load_dataset("digits", "nowhere").train
    rest, held = hold_out(split, 0.1, seed=3)
    expected = [round(count * 0.1) for count in torch.bincount(split.labels).tolist()]
    assert torch.bincount(held.labels).tolist() == expected

    def rows(part: Split) -> list[bytes]:
        return [
            bytes(image.flatten().tolist()) + bytes([label])
            for image, label in zip(part.images, part.labels, strict=True)
        ]

    assert sorted(rows(rest) + rows(held)) == sorted(rows(split))
    assert (held.mean, held.std) == (rest.mean, rest.std) == (split.mean, split.std)


def test_hold_out_depends_on_its_seed_alone_and_keeps_the_order() -> None:
    split = Split(numbered_split(90).images, torch.arange(90) % 3)
    held = [hold_out(split, 0.2, seed=seed)[1].images[:, 0, 0, 0].tolist() for seed in (1, 1, 2)]
    assert held[0] == held[1] == sorted(held[0])
    assert held[0] != held[2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.001])
def test_hold_out_refuses_to_leave_a_part_empty(fraction: float) -> None:
    with pytest.raises(DatasetError, match="cannot be held out"):
        hold_out(numbered_split(20), fraction, seed=0)


def test_some_images_are_drawn_by_a_seed_in_order_and_fewer_of_them_are_a_part_of_more() -> None:
    split = numbered_split(90)
    few, more, others = (
        set(some_of(split, count, seed).images[:, 0, 0, 0].tolist())
        for count, seed in ((10, 1), (40, 1), (40, 2))
    )
    assert (len(few), len(more)) == (10, 40)
    assert few < more != others
    drawn = some_of(split, 40, 1).images[:, 0, 0, 0].tolist()
    assert drawn == sorted(drawn)
    assert some_of(split, 90, 1) is split is some_of(split, 1000, 1)


def test_random_data_is_standardised_and_repeatable() -> None:
    split = noise_split(2000, (3, 8, 8))
    seen = split.normalized(split.images)
    assert abs(seen.mean().item()) < 5 / seen.numel() ** 0.5
    assert seen.std().item() == pytest.approx(1, abs=5 / seen.numel() ** 0.5)
    assert set(split.labels.tolist()) == set(range(10))
    assert torch.equal(split.images, noise_split(2000, (3, 8, 8)).images)


@pytest.mark.parametrize(
    "tensors",
    [(torch.zeros(2, 1, 4, 4).double(), torch.zeros(2)),
     (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3)),
     (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2))],
)  # fmt: skip
def test_a_split_checks_its_tensors(tensors: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(DatasetError, match="a split needs uint8 images"):
        Split(*tensors)


def test_published_preprocessing_has_the_constants_of_the_published_code() -> None:
    for name in ("cifar10", "cifar100"):
        found = preprocessed(dataset_info(name), "published")
        assert (found.mean, found.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    mnist = preprocessed(dataset_info("mnist"), "published")
    assert (mnist.input_shape, mnist.mean, mnist.std) == ((1, 28, 28), (0.0,), (1.0,))
    for name in ("digits", "fashion_mnist"):
        assert preprocessed(dataset_info(name), "published") == dataset_info(name)
    for name in DATASETS:
        assert preprocessed(dataset_info(name), "standard") == dataset_info(name)


def test_published_mnist_is_served_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    for prefix in ("train", "t10k"):
        header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in images.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        labels = bytes([0, 0, 8, 1, 0, 0, 0, 3, 0, 5, 9])
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    split = load_dataset("mnist", tmp_path, preprocessing="published").train
    torch.testing.assert_close(split.normalized(split.images), images[:, None] / 255)
