"""Experiment trackers: the rows of `metrics.csv`, also sent to a service or viewer.

`tracker.Tracker` is the protocol, implemented by one class each for TensorBoard, Weights & Biases, Comet and
MLflow; `reporting.tracking` forwards the events of a run to them. The files on disk remain authoritative: a
failing tracker causes only a warning. The extra `nteleport[tracking]` installs their packages.
"""
