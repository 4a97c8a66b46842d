"""What nteleport costs, measured against baselines, and one command for all of it: ``scripts/bench``.

Each module of this package makes some comparisons. A comparison puts two or more ways to do the same thing
side by side and lets them take turns (`timing`), so that whatever else the machine does meets all of them. It
reports medians, their ratio and the spread of the ratio as a `Figure`; `table` shows figures, `command` is
the command line. What nteleport is compared with lies in `baselines`.
"""
