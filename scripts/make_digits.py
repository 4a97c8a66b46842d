#!/usr/bin/env python3
"""Make nteleport/data/digits.npz: the 1,797 handwritten digits of the UCI repository that scikit-learn ships.

    python scripts/make_digits.py [--wheel scikit_learn-….whl] [--out nteleport/data/digits.npz]

Without ``--wheel`` the scikit-learn wheel is fetched by ``pip download`` into a temporary folder; it is only
unzipped, never installed. The file holds

    train_images  uint8 [1437, 8, 8], values 0 … 16 (how many of 4×4 bitmap pixels are on)
    train_labels  uint8 [1437]
    test_images   uint8 [360, 8, 8]
    test_labels   uint8 [360]

The split is stratified and fixed: of all digits sorted by label (stably), every fifth goes to the test split.
Within a split the digits keep their published order. Both splits hold digits by the same 13 writers.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

MEMBER = "sklearn/datasets/data/digits.csv.gz"
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "nteleport" / "data" / "digits.npz"


def download_wheel(folder: Path) -> Path:
    """Fetch the scikit-learn wheel into ``folder``."""
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "scikit-learn"], check=True)
    return next(folder.glob("scikit_learn-*.whl"))


def read_table(wheel: Path) -> np.ndarray:
    """The table in the wheel: uint8 [1797, 65], 64 pixel counts and a label in each row."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER)).decode("ascii")
    table = np.array(
        [[int(float(cell)) for cell in line.split(",")] for line in text.split()], dtype=np.uint8
    )
    if table.shape != (1797, 65) or table[:, :64].max() != 16 or table[:, 64].max() != 9:
        raise SystemExit(f"{wheel}: {MEMBER} is not the table of 1,797 digits that was expected")
    return table


def is_test_row(labels: np.ndarray) -> np.ndarray:
    """A mask: every fifth row of the table sorted by label, so each class is split 4 : 1."""
    mask = np.zeros(len(labels), dtype=bool)
    mask[np.argsort(labels, kind="stable")[::5]] = True
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, help="a scikit-learn wheel already on this machine")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = read_table(arguments.wheel or download_wheel(Path(folder)))
    images, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    test = is_test_row(labels)
    np.savez_compressed(
        arguments.out,
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
    )
    print(f"{arguments.out}: {(~test).sum()} + {test.sum()} digits, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
