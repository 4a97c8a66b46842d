"""``python -m nteleport`` is the command ``nteleport``."""

from __future__ import annotations

from nteleport.cli import main

main()
