"""Checks whether the claims of the paper hold here, for `nteleport reproduce`.

- `claims`: the claims as a table, for three tiers: `cpu`, small and quick, `real`, the paper's networks
  and data for minutes, and `paper`, as published;
- `folder`: where a reproduction keeps its jobs, studies and report;
- `trainings`: what the metrics of pairs of trained jobs say about a claim;
- `measures`: what the tables of studies say about a claim; means with t intervals over seeds;
- `answers`: the row of the report for each claim;
- `run`: runs the missing trainings and studies, so that an interrupted reproduction continues;
- `report`: the answers as Markdown and JSON, and the pictures.

Only `run` imports torch.
"""
