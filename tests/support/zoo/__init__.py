"""Tiny networks that exercise every rule of the analysis, and the networks behind the reference arrays."""
