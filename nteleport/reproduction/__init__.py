"""Do the claims of the paper hold here? `nteleport reproduce` asks, and this package answers.

- `claims`: the claims as a table, for two tiers: `cpu`, small and quick, and `paper`, as published;
- `statistics`: means with t intervals over paired seeds;
- `trainings`: what the metrics of pairs of trained jobs say about a claim;
- `measures`: what the tables of studies say about a claim;
- `run`: trains and studies what is missing, so that an interrupted reproduction goes on where it stopped;
- `report`: the answers as Markdown and JSON; `pictures` draws the training curves.

Only `run` imports torch.
"""
