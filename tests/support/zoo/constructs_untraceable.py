"""Networks that torch.export cannot trace, each with words that the error about it has to say."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .constructs import Construct, linear, sequences, vectors

_DEPENDS_ON_VALUES = "depends on values of its data"

UNTRACEABLE: dict[str, tuple[Construct, str]] = {
    "branch_on_values": (vectors(lambda n, h: torch.relu(h) if h.sum() > 0 else h), _DEPENDS_ON_VALUES),
    "loop_as_long_as_a_value": (
        vectors(lambda n, h: sum(h for _ in range(int(h.abs().max()) + 1))),
        _DEPENDS_ON_VALUES,
    ),
    "fake_quantizer": (
        vectors(lambda n, h: n.quantize(h.float()).double(), quantize=FakeQuantize),
        "layer quantize .*before it is prepared for quantization",
    ),
    "gradient_in_forward": (
        vectors(
            lambda n, h: h + torch.func.grad(lambda z: torch.tanh(n.energy(z)).sum())(h), energy=linear(8, 8)
        ),
        "it differentiates",
    ),
    "lstm_packed": (
        sequences(lambda n, h: _packed(n.layer, h), layer=partial(nn.LSTM, 8, 6, batch_first=True)),
        _DEPENDS_ON_VALUES,
    ),
}


def _packed(layer: nn.LSTM, h: Tensor) -> Tensor:
    packed = pack_padded_sequence(h, torch.tensor([5, 4, 2, 1]), batch_first=True)
    return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=5)[0]
