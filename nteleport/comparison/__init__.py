"""Arms compared by paired runs: does teleporting help at equal cost, and why? No torch.

    from nteleport import compare, read_results

    comparison = compare(read_results("results/digits"), outcomes=["test_accuracy", "seconds_to:0.9"])
    comparison.notes      # what a reader must know first
    comparison.rows       # one row per cell, arm and outcome
    comparison.verdicts   # in words

The statistics are in `statistics`, the rules of the verdicts in `verdicts`.
"""

from nteleport.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
