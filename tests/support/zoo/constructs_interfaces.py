"""Inputs and outputs of every form."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Construct, Table, Wired, images, linear, noise, two_layers, weight, whole

OUTPUTS: Table = {
    "list": two_layers(lambda n, x: (lambda h: [h[:, :3], n.last(h)])(torch.relu(n.first(x)))),
    "mapping": two_layers(
        lambda n, x: (lambda h: {"hidden": h[:, :3], "logits": n.last(h)})(torch.relu(n.first(x)))
    ),
    "ordered_mapping": two_layers(lambda n, x: OrderedDict(logits=n.last(torch.relu(n.first(x))))),
    "nested": two_layers(
        lambda n, x: (lambda h: (n.last(h), [{"h": (h[:, :2], None)}, h.sum()]))(torch.relu(n.first(x)))
    ),
    "none_among_them": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), None)),
    "number_among_them": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), x.shape[0], 0.5, "text")),
    "scalar": two_layers(lambda n, x: n.last(torch.relu(n.first(x))).square().mean()),
    "an_input": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), x)),
    "a_parameter": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), n.first.weight)),
    "a_parameter_alone": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), n.spare), spare=weight(3)),
    "a_buffer": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), n.table), table=noise(3)),
    "the_same_twice": two_layers(lambda n, x: (lambda y: (y, y))(n.last(torch.relu(n.first(x))))),
    "hidden_activation": two_layers(lambda n, x: (lambda h: (n.last(torch.relu(h)), h))(n.first(x))),
    "slice_of_a_hidden_activation": two_layers(
        lambda n, x: (lambda h: (n.last(torch.relu(h)), h[:, 2:4]))(n.first(x))
    ),
    "constant": two_layers(lambda n, x: (n.last(torch.relu(n.first(x))), torch.arange(3))),
    "loss_with_targets": two_layers(
        lambda n, x, y: (lambda z: {"loss": F.cross_entropy(z, y), "logits": z})(
            n.last(torch.relu(n.first(x)))
        ),
        lambda: (torch.randn(4, 7), torch.tensor([0, 1, 2, 0])),
    ),
}


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor | None


@dataclass
class Prediction:
    logits: Tensor
    hidden: Tensor | None = None


torch.export.register_dataclass(Prediction)
Old = namedtuple("Old", "logits extra")

OUTPUTS |= {
    "named_tuple": two_layers(lambda n, x: (lambda h: Pair(n.last(h), h[:, :3]))(torch.relu(n.first(x)))),
    "named_tuple_of_collections": two_layers(lambda n, x: Old(n.last(torch.relu(n.first(x))), [])),
    "dataclass": two_layers(lambda n, x: (lambda h: Prediction(n.last(h), h[:, :3]))(torch.relu(n.first(x)))),
}


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, *, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.last(torch.relu(self.first(x)) * scale)


class OptionalMask(KeywordOnly):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        h = torch.relu(self.first(x)) * scale
        return self.last(h if mask is None else h * mask)


def _mapping(n: Wired, batch: Mapping[str, Tensor]) -> Tensor:
    return n.last(torch.relu(n.first(batch["x"])) + batch["h"])


def _nested(n: Wired, pieces: list[Any]) -> Tensor:
    return n.last(torch.relu(n.first(pieces[0])) + sum(pieces[1]["h"]))


INPUTS: Table = {
    "keyword_only": Construct(lambda: (KeywordOnly(), {"x": torch.randn(4, 7)})),
    "keywords_with_number": Construct(lambda: (KeywordOnly(), {"x": torch.randn(4, 7), "scale": 0.5})),
    "positional_and_keyword": Construct(
        lambda: (OptionalMask(), ((torch.randn(4, 7),), {"mask": torch.rand(4, 8)}))
    ),
    "optional_left_out": Construct(lambda: (OptionalMask(), torch.randn(4, 7))),
    "optional_none": Construct(lambda: (OptionalMask(), (torch.randn(4, 7), None, 2.0))),
    "mapping": two_layers(_mapping, lambda: ({"x": torch.randn(4, 7), "h": torch.randn(4, 8)},)),
    "nested_lists": two_layers(
        _nested, lambda: ([torch.randn(4, 7), {"h": [torch.randn(4, 8), torch.randn(8)]}],)
    ),
    "list_of_tensors": two_layers(
        lambda n, xs: n.last(torch.relu(n.first(torch.cat(xs, 1)))),
        lambda: ([torch.randn(4, 3), torch.randn(4, 4)],),
    ),
    "any_number_of_them": two_layers(
        lambda n, *xs: n.last(sum(torch.relu(n.first(x)) for x in xs)),
        lambda: tuple(torch.randn(4, 7) for _ in range(3)),
    ),
    "number": two_layers(
        lambda n, x, power: n.last(torch.relu(n.first(x)) ** power), lambda: (torch.randn(4, 7), 2)
    ),
    "text": two_layers(
        lambda n, x, how: n.last(getattr(torch, how)(n.first(x))), lambda: (torch.randn(4, 7), "tanh")
    ),
    "zero_dimensional": whole(
        lambda n, x: n.last(torch.relu(n.first(x * torch.ones(7)))),
        lambda: torch.tensor(0.3),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
    "one_dimensional": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), noise(7)),
    "empty_batch": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), noise(0, 7)),
    "batch_of_one": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), noise(1, 7)),
    "many_axes": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), noise(2, 1, 3, 2, 7)),
    "batch_of_the_width": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), noise(8, 7)),
    "transposed": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), lambda: torch.randn(7, 4).t()),
    "strided": two_layers(lambda n, x: n.last(torch.relu(n.first(x))), lambda: torch.randn(4, 14)[:, ::2]),
    "expanded": two_layers(
        lambda n, x: n.last(torch.relu(n.first(x))), lambda: torch.randn(1, 7).expand(4, 7)
    ),
    "channels_last": images(lambda n, h: torch.relu(h.to(memory_format=torch.channels_last))),
    "requires_gradient": two_layers(
        lambda n, x: n.last(torch.relu(n.first(x))), lambda: torch.randn(4, 7, requires_grad=True)
    ),
    "unused": two_layers(
        lambda n, x, y: n.last(torch.relu(n.first(x))), lambda: (torch.randn(4, 7), torch.randn(2))
    ),
    "none_at_all": whole(
        lambda n: n.last(torch.relu(n.latent)), lambda: (), latent=weight(4, 8), last=linear(8, 3)
    ),
}
