"""``python -m nteleport`` is the command ``nteleport``."""

from __future__ import annotations

import sys

from nteleport.cli import main

sys.argv[0] = "nteleport"  # recorded in provenance.json
main()
