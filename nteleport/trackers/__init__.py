"""Experiment trackers: the same rows that go to `metrics.csv`, shown by a service or a viewer as well.

`tracker.Tracker` is the protocol, one class each for TensorBoard, Weights & Biases, Comet and MLflow follows
it, and `reporting.TrackingReporter` tells them what a run reports. Files on disk stay the truth: a tracker
that fails costs a warning and nothing else. Their packages are installed by the extra `nteleport[tracking]`.
"""
