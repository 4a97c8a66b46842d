"""Networks that compute in several types, and regions in which gradients or precision differ."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .constructs import Construct, Table, Wired, entry, linear, noise, sequences, vectors, weight, whole


def _block() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def _autocast(n: Wired, h: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.relu(n.layer(h)).double()


DTYPES: Table = {
    "inner_float32": vectors(lambda n, h: torch.tanh(h.float()).double(), precision=torch.float32),
    "inner_bfloat16": vectors(lambda n, h: torch.tanh(h.bfloat16()).double(), precision=torch.bfloat16),
    "inner_float16": vectors(lambda n, h: h.to(torch.float16).to(h.dtype), precision=torch.float16),
    "softmax_in_float32": sequences(
        lambda n, h: F.softmax(h @ h.mT, -1, dtype=torch.float32).to(h) @ h, precision=torch.float32
    ),
    "norm_in_float32": sequences(
        lambda n, h: n.norm(h.float()).double(),
        norm=partial(nn.LayerNorm, 8, dtype=torch.float32),
        precision=torch.float32,
    ),
    "layer_in_float32": vectors(
        lambda n, h: n.layer(h.float()).relu().double(),
        layer=linear(8, 6, dtype=torch.float32),
        precision=torch.float32,
    ),
    "weight_cast": vectors(
        lambda n, h: F.linear(h, n.w.float().double()), w=weight(6, 8), precision=torch.float32
    ),
    "autocast": vectors(_autocast, layer=linear(8, 6), precision=torch.bfloat16),
    "bits_of_a_number": vectors(lambda n, h: h.view(torch.int64).view(torch.float64)),
    "exponent_by_bits": vectors(lambda n, h: h + ((h.detach().view(torch.int64) >> 52) & 0x7FF) / 1000),
    "complex_magnitude": vectors(lambda n, h: torch.complex(h, n.other(h)).abs(), other=linear(8, 8)),
    "complex_phase": vectors(lambda n, h: torch.polar(torch.ones(4, 8), h).real),
    "complex_view": vectors(lambda n, h: torch.view_as_real(torch.view_as_complex(h.view(4, 4, 2)) * 1j)),
    "complex_real_and_imaginary": vectors(
        lambda n, h: (lambda z: torch.cat([z.real, z.imag], 1))(h + 1j * n.other(h)), other=linear(8, 8)
    ),
    "complex_rotary": sequences(
        lambda n, h: torch.view_as_real(
            torch.view_as_complex(h.view(4, 5, 4, 2))
            * torch.polar(torch.ones(5, 4), torch.arange(20.0).view(5, 4))
        ).flatten(2)
    ),
    "complex_weight": vectors(
        lambda n, h: (h.to(torch.complex128) @ n.w).abs(),
        w=lambda: nn.Parameter(torch.randn(8, 6, dtype=torch.complex128)),
    ),
    "fourier_weight": vectors(
        lambda n, h: torch.fft.irfft(torch.fft.rfft(h) * n.w, 8),
        w=lambda: nn.Parameter(torch.randn(5, dtype=torch.complex128)),
    ),
    "complex_network": whole(
        lambda n, x: n.last(F.tanh(n.first(x))),
        lambda: torch.randn(4, 7, dtype=torch.complex128),
        first=linear(7, 8, dtype=torch.complex128),
        last=linear(8, 3, dtype=torch.complex128),
    ),
    "complex_then_real": whole(
        lambda n, x: n.last(n.first(x).abs()),
        lambda: torch.randn(4, 7, dtype=torch.complex128),
        first=linear(7, 8, dtype=torch.complex128),
        last=linear(8, 3),
    ),
    "float32_network": whole(
        lambda n, x: n.last(torch.relu(n.first(x))),
        lambda: torch.randn(4, 7, dtype=torch.float32),
        first=linear(7, 8, dtype=torch.float32),
        last=linear(8, 3, dtype=torch.float32),
        precision=torch.float32,
    ),
    "bfloat16_behind_float64": whole(
        lambda n, x: n.last(torch.relu(n.middle(torch.relu(n.first(x)).bfloat16()))),
        noise(4, 7),
        first=linear(7, 8),
        middle=linear(8, 8, dtype=torch.bfloat16),
        last=linear(8, 3, dtype=torch.bfloat16),
        precision=torch.bfloat16,
    ),
    "float64_behind_float32": whole(
        lambda n, x: n.last(torch.relu(n.first(x.float())).double()),
        noise(4, 7),
        first=linear(7, 8, dtype=torch.float32),
        last=linear(8, 3),
        precision=torch.float32,
    ),
    "integer_input": whole(
        lambda n, x: n.last(torch.relu(n.first(x / 255))),
        lambda: torch.randint(0, 256, (4, 7), dtype=torch.uint8),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
    "bool_mask_input": whole(
        lambda n, x, mask: n.last(torch.relu(n.first(x)).masked_fill(mask, 0)),
        lambda: (torch.randn(4, 7), torch.rand(4, 8) > 0.5),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
    "integer_output_alongside": whole(
        lambda n, x: (lambda y: (y, y.argmax(1), y > 0))(n.last(torch.relu(n.first(x)))),
        noise(4, 7),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
}


def _with_first(value: Tensor) -> Construct:
    """A network whose first parameter is of another type."""

    def forward(n: Wired, x: Tensor) -> Tensor:
        return n.last(torch.relu(n.hidden(x))) + 0 * n.constant.abs().sum()

    return whole(
        forward,
        noise(4, 7),
        constant=lambda: nn.Parameter(value.clone(), requires_grad=False),
        hidden=linear(7, 8),
        last=linear(8, 3),
    )


DTYPES |= {
    "first_parameter_integer": _with_first(torch.arange(4)),
    "first_parameter_byte": _with_first(torch.arange(4, dtype=torch.uint8)),
    "first_parameter_complex": _with_first(torch.ones(4, dtype=torch.complex128)),
    "first_parameter_half": _with_first(torch.ones(4, dtype=torch.float16)),
}

REGIONS: Table = {
    "detach": vectors(lambda n, h: h + n.other(h.detach()), other=linear(8, 8)),
    "checkpoint": vectors(lambda n, h: checkpoint(n.block, h, use_reentrant=False), block=_block),
    "checkpoint_reentrant": vectors(lambda n, h: checkpoint(n.block, h, use_reentrant=True), block=_block),
    "checkpoint_sequential": vectors(
        lambda n, h: checkpoint_sequential(n.block, 2, h, use_reentrant=False), block=_block
    ),
    "checkpoint_with_dropout": vectors(
        lambda n, h: checkpoint(lambda z: F.dropout(n.block(z), 0.5, n.training), h, use_reentrant=False),
        block=_block,
    ),
}


@entry(
    DTYPES,
    whole,
    noise(4, 7),
    flag=lambda: nn.Parameter(torch.ones(4, 1, dtype=torch.bool), False),
    hidden=linear(7, 8),
    last=linear(8, 3),
)
def first_parameter_bool(n: Wired, x: Tensor) -> Tensor:
    return n.last(torch.relu(n.hidden(x)) * n.flag)


@entry(REGIONS, vectors, other=linear(8, 8))
def no_grad(n: Wired, h: Tensor) -> Tensor:
    with torch.no_grad():
        target = torch.tanh(n.other(h))
    return h + target


@entry(REGIONS, vectors, other=linear(8, 8))
def inference_of_a_teacher(n: Wired, h: Tensor) -> Tensor:
    with torch.no_grad():
        agreement = (n.other(h) * h).sum(1, keepdim=True)
    with torch.enable_grad():
        return torch.relu(h) * agreement
