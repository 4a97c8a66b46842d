"""The mathematics: how a change of basis acts on a network, and how it is found, applied and trained with."""
