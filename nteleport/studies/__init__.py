"""The studies of the paper as functions that return tidy tables; `nteleport study NAME` runs and draws one.

- `study`: the available studies, and how one is run, written and run again. No torch.
- `settings`: the settings shared by all studies. No torch.
- `subject`: the networks, data and changes of basis that a study examines.
- one package per study: its settings, `compute` and, from the table alone, `picture`.

Example:
    >>> from nteleport import MicroSettings, micro_angles
    >>> table = micro_angles(MicroSettings(datasets=("digits",)))  # doctest: +SKIP
"""
