"""Networks of other libraries, small and without weights, and what analysis reaches in them.

``python -m support.zoo.library NAME…`` (with ``tests`` on the path) prints rows of ``docs/coverage.md`` for
networks whose name contains one of the given ones; ``--write`` computes all rows and writes the page.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from tqdm import tqdm

from nteleport import analyze
from nteleport.core.quiver import Quiver
from nteleport.errors import AnalysisError
from support import ROOT
from support.zoo.library_others import OTHERS
from support.zoo.library_timm import TIMM
from support.zoo.library_transformers import TRANSFORMERS

LIBRARY: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **{f"timm.{name}": made for name, made in TIMM.items()},
    **{f"transformers.{name}": made for name, made in TRANSFORMERS.items()},
    **OTHERS,
}

UNTRACEABLE = {
    "transformers.LlamaModel": "returns a .*DynamicCache. Set network.config.use_cache = False",
    "torchvision.ssdlite320_mobilenet_v3_large": "boxes.py:.* depends on values of its data",
}
"""Networks that torch.export cannot trace as they are, and what the error says."""

CACHES = "keeps biases, and the graph that made them, from one call to the next"
UNSTABLE = (
    "a unit in the last place of its weights, without any teleportation, moves them by 1e-6 in two steps"
)
UNTRAINABLE = {
    ("timm.efficientformer_l1", False): CACHES,
    ("timm.efficientformerv2_s0", False): CACHES,
    ("timm.efficientvit_m0", False): CACHES,
    ("timm.levit_128s", False): CACHES,
    ("timm.tiny_vit_5m_224", False): CACHES,
    ("timm.inception_v4", True): UNSTABLE,
    ("timm.visformer_tiny", False): UNSTABLE,
}
"""Networks and modes (training or not) in which training cannot be compared, and why."""

IN_SINGLE_PRECISION = {"transformers.CohereForCausalLM": 1e-6}
"""Networks that compute in float32 on the way, and how well outputs at other weights agree with theirs."""

PAGE = ROOT / "docs" / "coverage.md"


def build(name: str) -> tuple[nn.Module, Any]:
    """A network in float64 and its example inputs, always the same.

    Layers that start at zero would hide what happens before them, so all parameters get a little noise.
    """
    torch.manual_seed(0)
    network, inputs = LIBRARY[name]()
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network, _double(inputs)


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _double(each) for name, each in value.items()}
    return type(value)(_double(each) for each in value) if isinstance(value, (tuple, list)) else value


class Row(NamedTuple):
    """One row of the table. Shares are of the parameters that are used."""

    name: str
    parameters: int
    teleported: float
    tied: float
    reasons: list[tuple[str, float]]
    export_seconds: float
    own_share: float

    @property
    def reached(self) -> float:
        return self.teleported + self.tied

    def __str__(self) -> str:
        why = "; ".join(f"{reason} ({100 * share:.2f})" for reason, share in self.reasons)
        return (
            f"| {self.name} | {self.parameters:,} | {100 * self.teleported:.2f} | {100 * self.tied:.2f} | "
            f"{100 * (1 - self.reached):.2f} | {why} | {self.export_seconds:.2f} | {self.own_share:.3f} |"
        )


def row_of(name: str, quiver: Quiver, export_seconds: float, own_seconds: float) -> Row:
    used = [row for row in quiver.report() if not row.reason.startswith("not reached")]
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in used:
        count = torch.Size(row.shape).numel()
        counts[row.status] += count
        if row.status == "untouched":
            reasons[row.reason] += count
    total = max(1, sum(counts.values()))
    return Row(
        name,
        sum(p.shape.numel() for p in quiver.parameters.values()),
        counts["teleported"] / total,
        counts["tied"] / total,
        [(reason, count / total) for reason, count in reasons.most_common()],
        export_seconds,
        own_seconds / export_seconds,
    )


def measured(name: str) -> Row:
    """Analyze a network and time ``torch.export`` inside of that."""
    network, inputs = build(name)
    spent: list[float] = []
    export = torch.export.export

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return export(*args, **kwargs)
        finally:
            spent.append(time.process_time() - start)

    analyze(network, inputs)  # imports and caches are no part of it
    spent.clear()
    gc.collect()
    gc.freeze()  # so that no collection of what was there before falls into either part
    torch.export.export = timed
    try:
        start = time.process_time()
        quiver = analyze(network, inputs)
        total = time.process_time() - start
    finally:
        torch.export.export = export
        gc.unfreeze()
    return row_of(name, quiver, sum(spent), total - sum(spent))


def page(rows: Iterable[Row]) -> str:
    rows = list(rows)
    mean = sum(row.reached for row in rows) / len(rows)
    return f"""# Coverage

What `nteleport.analyze` reaches in {len(rows)} networks of timm, transformers,
segmentation-models-pytorch, torch_geometric and torchvision, none of which was written for it.
`scripts/test --zoo` builds each in float64 and checks: outputs are kept to 1e-8 on three calls in both
modes, the materialized network agrees, undoing is exact, both views train alike, and analysis leaves every
attribute and random state as it was. `python -m support.zoo.library --write` (with `tests` on the path)
writes this page.

**{100 * mean:.2f} % of the parameters are teleported or tied**, mean over the networks. Parameters that a
network does not use are left out. *Own part* is what analysis takes beyond `torch.export`, as a share of it,
in CPU time of one thread.

| network | parameters | teleported % | tied % | untouched % | why (%) | export, CPU s | own part |
|---|---|---|---|---|---|---|---|
""" + "".join(f"{row}\n" for row in rows)


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.disable()
    torch.set_num_threads(1)
    write = "--write" in arguments
    wanted = [a for a in arguments if a != "--write"] or [""]
    names = [name for name in LIBRARY if name not in UNTRACEABLE and any(part in name for part in wanted)]
    rows = []
    for name in tqdm(names, disable=None):
        try:
            rows.append(measured(name))
        except AnalysisError as error:
            tqdm.write(f"{name}: {error}")
            continue
        if not write:
            tqdm.write(str(rows[-1]))
    if write:
        PAGE.write_text(page(rows))
    tqdm.write(f"mean {sum(row.reached for row in rows) / len(rows):.4f} of {len(rows)} networks")


if __name__ == "__main__":
    main(sys.argv[1:])
