"""Atomic writes: a file is complete or absent.

A file is written under a temporary name beside its target and renamed over it, so no reader ever sees half a
file and no crash leaves one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it replaces `path` in one step.

    On an error the temporary file is removed and `path` is unchanged. With `durable` the content reaches the
    disk before the rename, so that not even a power failure leaves an empty file under the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str, *, durable: bool = False) -> None:
    """Write UTF-8 text to `path` by rename; its folder must exist."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented JSON to `path` by rename; its folder must exist."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n", durable=durable)
