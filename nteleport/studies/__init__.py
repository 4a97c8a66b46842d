"""The studies of the paper as functions that return tidy tables; `nteleport study NAME` runs and draws one.

- `study`: which studies there are, and how one is run, written and run again. No torch.
- `settings`: what all of them can be told. No torch.
- `subject`: the networks, data and changes of basis that a study looks at.
- a package for each study: its settings, `compute` and, from the table alone, `picture`.

Example:
    >>> from nteleport import MicroSettings, micro_angles
    >>> table = micro_angles(MicroSettings(datasets=("digits",)))  # doctest: +SKIP
"""
