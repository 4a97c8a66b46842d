"""Baselines: other ways to do what nteleport does, each written as well as it can be."""
