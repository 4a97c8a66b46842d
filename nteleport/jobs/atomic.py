"""Atomic writes: a file is complete or absent.

A file is written under a temporary name beside its target and renamed over it, so no reader ever sees half a
file and no crash leaves one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nteleport.jobs.owner import maker_is_running, temporary_mark


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it replaces `path` in one step.

    On an error the temporary file is removed and `path` is unchanged. With `durable` the content reaches the
    disk before the rename, so that not even a power failure leaves an empty file under the name.

    The temporary name is unique, even among containers that share the folder, and names its process.
    """
    temporary = path.with_name(f".{path.name}.{temporary_mark()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_being_written(temporary: Path, is_recent: Callable[[Path], bool]) -> bool:
    """Whether the process that writes a temporary file of `replacing` is alive.

    Args:
        temporary: the file, whoever made it.
        is_recent: whether a file was changed not long ago; decides where the process cannot be seen.
    """
    running = maker_is_running(temporary.name.split(".")[-2])
    return is_recent(temporary) if running is None else running


def write_text_atomic(path: Path, text: str, *, durable: bool = False) -> None:
    """Write UTF-8 text to `path` by rename; its folder must exist."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented JSON to `path` by rename; its folder must exist."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n", durable=durable)
