"""Teleportation changes the sharpness of the loss, although the function stays the same.

The Hessian at the teleported weights is diag(1/s) H diag(1/s), so its products follow from those of the plain
network: one network is looked at in two coordinates. What no rescaling changes is Σ θᵢ² Hᵢᵢ, because θᵢ grows
by the factor sᵢ by which each derivative shrinks; it is measured at both points all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from nteleport.core.quiver import scales
from nteleport.data.batching import batches
from nteleport.randomness import generator_for
from nteleport.studies.hessian import (
    Batch,
    Hessian,
    Product,
    largest_eigenvalues,
    teleported_product,
    traces,
)
from nteleport.studies.points import first_images
from nteleport.studies.sharpness import SharpnessSettings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, subjects

ALL = "all"
"""The layer that is the whole network."""

PLAIN, TELEPORTED = "plain", "teleported"
TRACE, INVARIANT = "trace", "invariant trace"

Row = tuple[str, str, str, float, float]
"""Coordinates, layer, quantity, value and standard error."""


def hessian_sharpness(settings: SharpnessSettings, *, progress: Progress = no_progress) -> pd.DataFrame:
    """Trace and largest eigenvalues of the Hessian of the mean cross-entropy, at θ and at θ' = s ⊙ θ.

    The network is in evaluation mode. A layer is the parameters of one module, and its Hessian the block on
    the diagonal that belongs to them.

    Returns:
        A row for each quantity: `model, dataset, coordinates, layer, quantity, value, standard_error`.
        `coordinates` is `plain` or `teleported`; `layer` is `all` for the whole network. `quantity` is
        `trace`; `invariant trace`, Σ θᵢ² Hᵢᵢ; `eigenvalue 1` (the largest) and so on; or `residual 1` and so
        on, a bound of the distance of that eigenvalue from a true one. Traces are estimates with a standard
        error; the others have none.

    Raises:
        NTeleportError: settings that cannot be run, or a model without forward-mode derivatives.
    """
    tables: list[pd.DataFrame] = []
    total = len(settings.models) * len(settings.datasets)
    for number, subject in enumerate(subjects(settings)):
        study = _Sharpness.of(subject, settings)
        rows: list[Row] = []
        jobs = list(study.jobs())
        for done, job in enumerate(jobs, start=1):
            rows += job()
            progress(number * len(jobs) + done, total * len(jobs))
        columns = ["coordinates", "layer", "quantity", "value", "standard_error"]
        table = pd.DataFrame(rows, columns=columns)
        table.insert(0, "model", subject.model.label)
        table.insert(1, "dataset", subject.dataset)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Sharpness:
    """The Hessian of one subject in both coordinates.

    Attributes:
        scale: s of every parameter by name, of its shape.
    """

    subject: Subject
    settings: SharpnessSettings
    batches: list[Batch]
    scale: Mapping[str, Tensor]

    @classmethod
    def of(cls, subject: Subject, settings: SharpnessSettings) -> _Sharpness:
        """Draw the change of basis, and take the images."""
        generator = generator_for("study", settings.seed, "sharpness cob")
        cob = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator)
        images = first_images(subject.data.train, settings.images)
        fixed = list(batches(images, batch_size=settings.batch_size))
        return cls(subject, settings, fixed, scales(subject.quiver, cob))

    def jobs(self) -> Iterator[Callable[[], list[Row]]]:
        """What is to be computed, in pieces of similar work."""
        layers = self._layers()
        shown = [ALL, *(layers if self.settings.per_layer else ())]
        for coordinates in (PLAIN, TELEPORTED):
            for quantity in (TRACE, INVARIANT):
                yield partial(self._traces, coordinates, quantity, layers, shown)
            for layer in shown if self.settings.eigenvalues else ():
                names = None if layer == ALL else layers[layer]
                yield partial(self._eigenvalues, coordinates, names, layer)

    def _layers(self) -> dict[str, list[str]]:
        """The names of the trained parameters of each module that has some."""
        found: dict[str, list[str]] = {}
        for name, parameter in self.subject.network.named_parameters():
            if parameter.requires_grad:
                found.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return found

    def _traces(
        self, coordinates: str, quantity: str, layers: Mapping[str, list[str]], shown: list[str]
    ) -> list[Row]:
        hessian, product, scale = self._in(coordinates, None)
        weights = torch.ones_like(scale)
        if quantity == INVARIANT:
            weights = hessian.point() * (scale if coordinates == TELEPORTED else 1)
        owners = {name: layer for layer, names in layers.items() for name in names}
        of_each = torch.repeat_interleave(
            torch.tensor([list(layers).index(owners[name]) for name in hessian.names]),
            torch.tensor(hessian.sizes),
        )
        masks = {layer: of_each == number for number, layer in enumerate(layers)}
        masks[ALL] = torch.ones_like(of_each, dtype=torch.bool)
        generator = generator_for("study", self.settings.seed, "sharpness probes")
        found = traces(product, weights, masks, self.settings.probes, generator)
        return [(coordinates, layer, quantity, *found[layer]) for layer in shown]

    def _eigenvalues(self, coordinates: str, names: list[str] | None, layer: str) -> list[Row]:
        _, product, scale = self._in(coordinates, names)
        found = largest_eigenvalues(
            product, scale, self.settings.eigenvalues, steps=self.settings.steps,
            tolerance=self.settings.tolerance,
            generator=generator_for("study", self.settings.seed, "sharpness start"),
        )  # fmt: skip
        rows: list[Row] = []
        for rank, each in enumerate(found, start=1):
            rows.append((coordinates, layer, f"eigenvalue {rank}", each.value, torch.nan))
            rows.append((coordinates, layer, f"residual {rank}", each.residual, torch.nan))
        return rows

    def _in(self, coordinates: str, names: list[str] | None) -> tuple[Hessian, Product, Tensor]:
        """The plain Hessian, that in these coordinates as a product, and s as a flat vector."""
        hessian = Hessian(self.subject.network, self.batches, names)
        scale = torch.cat([self.scale[name].flatten() for name in hessian.names]).to(hessian.point())
        teleported = coordinates == TELEPORTED
        return hessian, teleported_product(hessian.product, scale) if teleported else hessian.product, scale
