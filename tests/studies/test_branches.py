"""The tree of teleported copies: its shape, what its nodes share, and where a network diverges."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from torch.nn import functional

from nteleport import TeleportableModel
from nteleport.data.batching import batches
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for, seed_of
from nteleport.studies import training as training_module
from nteleport.studies.branches import BranchesSettings
from nteleport.studies.branches.compute import BASELINE, ROOT, branched_training, leaves
from nteleport.studies.branches.picture import draw
from nteleport.studies.subject import draw_cob, one_subject

SMALL = (Component("mlp", {"hidden_layers": [12, 12]}),)
SGD = Component("SGD", {"lr": 0.02, "momentum": 0.9})


def small(**changes: object) -> BranchesSettings:
    defaults = {"models": SMALL, "optimizer": SGD, "epochs": 5, "every": 2, "branches": 2, "batch_size": 200}
    return BranchesSettings(**{**defaults, "device": "cpu", **changes})  # type: ignore[arg-type]


def test_every_network_branches_at_the_start_of_every_nth_epoch() -> None:
    told: list[tuple[int, int]] = []
    tables = branched_training(small(), progress=lambda done, total: told.append((done, total)))
    epochs = {node: list(rows["epoch"]) for node, rows in tables["branches"].groupby("node")}
    assert epochs == {
        "root": [0, 1], "root/0": [2, 3], "root/1": [2, 3], "root/0/0": [4], "root/0/1": [4], "root/1/0": [4],
        "root/1/1": [4], BASELINE: [2, 3, 4],
    }  # fmt: skip
    assert told[-1] == (13, 13)
    assert [done for done, _ in told] == [*range(1, 14), 13]
    ends = tables["branches-leaves"]
    assert set(ends["node"]) == {"root/0/0", "root/0/1", "root/1/0", "root/1/1", BASELINE}
    assert list(ends["teleportations"].sort_values()) == [0, 2, 2, 2, 2]
    assert ends["val_accuracy"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("epochs", "every", "branches"), [(1, 1, 3), (4, 2, 3), (5, 2, 1), (3, 5, 2), (4, 1, 2)]
)
def test_the_number_of_epochs_and_leaves_is_known_before(epochs: int, every: int, branches: int) -> None:
    settings = small(epochs=epochs, every=every, branches=branches)
    tables = branched_training(settings)
    assert len(tables["branches"]) == settings.trained_epochs
    teleported = tables["branches-leaves"]["node"] != BASELINE
    assert teleported.sum() == settings.leaves


def test_a_branch_is_what_plain_torch_makes_of_the_teleported_network() -> None:
    """The oracle: TeleportableModel, moved by hand, under torch's own SGD with a fresh state."""
    settings = small(epochs=2, every=1, branches=2)
    found = branched_training(settings)["branches"].set_index(["node", "epoch"])
    subject = one_subject(settings)
    model = TeleportableModel(subject.network, torch.zeros(1), quiver=subject.quiver)

    def run_epoch(epoch: int) -> None:
        optimizer = torch.optim.SGD(model.network.parameters(), **SGD.kwargs)
        generator = generator_for("epoch", seed_of("study", settings.seed, "branches"), epoch)
        for images, labels in batches(subject.data.train, batch_size=200, generator=generator):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    def validation_loss() -> float:
        test = subject.data.test
        with torch.no_grad():
            return float(functional.cross_entropy(model(test.normalized(test.images)), test.labels))

    run_epoch(0)
    assert found.loc[(ROOT, 0), "val_loss"] == pytest.approx(validation_loss(), rel=1e-4)
    generator = generator_for("study", settings.seed, "branches root/1")
    model.teleport(draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).float())
    run_epoch(1)
    assert found.loc[("root/1", 1), "val_loss"] == pytest.approx(validation_loss(), rel=1e-3)


def test_the_network_that_is_not_teleported_trains_as_if_nothing_had_happened() -> None:
    branched = branched_training(small())["branches"]
    alone = branched_training(small(every=5))["branches"]
    columns = ["epoch", "train_loss", "val_loss", "val_accuracy"]
    trunk = branched[branched["node"].isin([ROOT, BASELINE])][columns].sort_values("epoch")
    pd.testing.assert_frame_equal(trunk.reset_index(drop=True), alone[columns])


def test_a_network_that_diverges_is_a_leaf_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    teleport = training_module.Training.teleport
    moved: list[int] = []

    def break_the_first(self: training_module.Training, cob: torch.Tensor) -> None:
        teleport(self, cob)
        moved.append(1)
        if len(moved) == 1:
            with torch.no_grad():
                next(self.learner.network.parameters()).fill_(torch.nan)

    monkeypatch.setattr(training_module.Training, "teleport", break_the_first)
    tables = branched_training(small())
    ends = tables["branches-leaves"]
    assert list(ends["node"])[-1] == "root/0"
    assert ends.iloc[-1][["train_loss", "val_accuracy"]].isna().all()
    assert set(ends["node"]) == {"root/0", "root/1/0", "root/1/1", BASELINE}
    assert len(draw(tables)["branches"].axes) == 3


def test_a_root_that_diverges_is_an_error() -> None:
    with pytest.raises(StudyError, match="diverged in epoch 0"):
        branched_training(small(optimizer=Component("SGD", {"lr": 1e30})))


def test_the_name_of_the_untouched_network_covers_no_line() -> None:
    figure = draw(branched_training(small(epochs=5, every=1)))["branches"]
    FigureCanvasAgg(figure).draw()
    tree = figure.axes[0]
    name = next(text for text in tree.texts if text.get_text() == BASELINE).get_window_extent()
    lines = next(each for each in tree.collections if isinstance(each, LineCollection))
    segments = [tree.transData.transform(path.vertices) for path in lines.get_paths()]
    assert len(segments) == 5 + sum(2**k for k in range(1, 5))
    assert not any(
        name.x0 < ends[:, 0].max() and name.x1 > ends[:, 0].min() and name.y0 < y < name.y1
        for ends in segments
        for y in ends[:, 1]
    )


def test_leaves_are_the_nodes_without_branches_best_first() -> None:
    table = pd.DataFrame({
        "node": ["root", "root/0", "root/1", "root/1"], "parent": ["", "root", "root", "root"],
        "epoch": [0, 1, 1, 2], "val_accuracy": [0.1, 0.7, 0.2, 0.8],
    })  # fmt: skip
    found = leaves(table)
    assert list(zip(found["node"], found["val_accuracy"], strict=True)) == [("root/1", 0.8), ("root/0", 0.7)]


def test_a_tree_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(StudyError, match="are 59049 networks at the end, expected at most 1024"):
        small(epochs=11, every=1, branches=3)
    with pytest.raises(StudyError, match="epochs 0, expected at least 1"):
        small(epochs=0)
