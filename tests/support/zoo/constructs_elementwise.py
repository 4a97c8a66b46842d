"""Activation functions and other operators on each element."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Table, Wired, entry, images, linear, noise, sequences, vectors, weight, whole

_MODULES = (
    *(
        nn.ELU,
        nn.CELU,
        nn.SELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.RReLU,
        nn.PReLU,
    ),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Tanhshrink, nn.Hardswish),
    *(
        nn.Softplus,
        nn.Softsign,
        nn.Softshrink,
        nn.Hardshrink,
        nn.Dropout,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ),
    *(nn.GLU, nn.Identity),
)

ACTIVATIONS: Table = {
    **{module.__name__: vectors(lambda n, h: n.activation(h), activation=module) for module in _MODULES},
    "Threshold": vectors(lambda n, h: n.activation(h), activation=lambda: nn.Threshold(0.1, 0.7)),
    "GELU_tanh": vectors(lambda n, h: F.gelu(h, approximate="tanh")),
    "PReLU_of_channels": vectors(lambda n, h: n.activation(h), activation=lambda: nn.PReLU(8)),
    "Softmax": vectors(lambda n, h: n.activation(h), activation=lambda: nn.Softmax(1)),
    "LogSoftmax": vectors(lambda n, h: n.activation(h), activation=lambda: nn.LogSoftmax(1)),
    "Softmin": vectors(lambda n, h: n.activation(h), activation=lambda: nn.Softmin(1)),
    "Softmax2d": images(lambda n, h: n.activation(h), activation=nn.Softmax2d),
    "Dropout2d": images(lambda n, h: n.activation(h), activation=nn.Dropout2d),
    "gumbel_softmax": vectors(lambda n, h: F.gumbel_softmax(h, hard=True)),
    "swiglu": sequences(lambda n, h: F.silu(n.gate(h)) * n.up(h), gate=linear(8, 12), up=linear(8, 12)),
    "maxout": vectors(lambda n, h: n.wide(h).view(4, 8, 2).amax(2), wide=linear(8, 16)),
    "snake": vectors(lambda n, h: h + torch.sin(n.alpha * h).square() / n.alpha, alpha=weight(8)),
    "learned_slope": vectors(lambda n, h: torch.sigmoid(n.beta * h) * h, beta=weight(8)),
}

_UNARY = {
    **{
        f.__name__: f
        for f in (torch.sin, torch.exp, torch.erf, torch.abs, torch.square, torch.sign, torch.round)
    },
    **{
        f.__name__: f
        for f in (torch.floor, torch.frac, torch.neg, torch.atan, torch.sinc, torch.expm1, torch.sgn)
    },
    **{f.__name__: f for f in (torch.nan_to_num, torch.positive, torch.zeros_like)},
}

ELEMENTWISE: Table = {
    **{name: vectors(lambda n, h, f=f: f(h)) for name, f in _UNARY.items()},
    "rsqrt": vectors(lambda n, h: (h.square() + 1).rsqrt()),
    "log_of_positive": vectors(lambda n, h: torch.log1p(h.abs()) + h.abs().add(1).sqrt()),
    "pow_cube": vectors(lambda n, h: h**3),
    "pow_fraction": vectors(lambda n, h: (h.abs() + 0.1) ** 0.7),
    "pow_of_number": vectors(lambda n, h: 2.0**h),
    "pow_of_activations": vectors(lambda n, h: (h.abs() + 0.5) ** n.other(h), other=linear(8, 8)),
    "pow_of_parameter": vectors(lambda n, h: (h.abs() + 0.5) ** n.exponent, exponent=weight(8)),
    "clamp": vectors(lambda n, h: h.clamp(-0.5)),
    "clamp_by_activation": vectors(lambda n, h: torch.clamp(h, max=n.other(h)), other=linear(8, 8)),
    "where": vectors(lambda n, h: torch.where(h > 0, h, n.other(h)), other=linear(8, 8)),
    "where_parameter": vectors(
        lambda n, h: torch.where(torch.tensor([True, False] * 4), h, n.mask), mask=weight(8)
    ),
    "comparison_times_activation": vectors(lambda n, h: (h > 0.2) * h + (h.abs() <= 0.1)),
    "mask_as_type": vectors(lambda n, h: h[:, :1] * (h > 0).type_as(h)),
    "maximum": vectors(lambda n, h: torch.maximum(h, n.other(h)), other=linear(8, 8)),
    "minimum_of_parameter": vectors(lambda n, h: torch.minimum(h, n.bound), bound=weight(8)),
    "atan2": vectors(lambda n, h: torch.atan2(h, n.other(h)), other=linear(8, 8)),
    "hypot": vectors(lambda n, h: torch.hypot(h, n.other(h)), other=linear(8, 8)),
    "copysign": vectors(lambda n, h: torch.copysign(h, n.other(h)), other=linear(8, 8)),
    "fmod": vectors(lambda n, h: torch.fmod(h, 0.7) + torch.remainder(h, 0.3)),
    "heaviside": vectors(lambda n, h: h * torch.heaviside(h.detach(), torch.tensor(0.5))),
    "logaddexp": vectors(lambda n, h: torch.logaddexp(h, n.other(h)), other=linear(8, 8)),
    "lerp": vectors(
        lambda n, h: torch.lerp(h, n.other(h), torch.sigmoid(n.mix)), other=linear(8, 8), mix=weight(8)
    ),
    "addcdiv": vectors(
        lambda n, h: torch.addcdiv(h, n.other(h), h.square() + 1, value=0.5), other=linear(8, 8)
    ),
    "addcmul_of_parameters": vectors(
        lambda n, h: torch.addcmul(n.shift, h, n.scale), shift=weight(8), scale=weight(8)
    ),
    "xlogy": vectors(lambda n, h: torch.xlogy(h, h.square() + 1)),
    "divided_by_activation": vectors(lambda n, h: h / (1 + n.other(h).square()), other=linear(8, 8)),
    "divided_by_parameter": vectors(lambda n, h: h / n.scale, scale=weight(8)),
    "number_minus_activation": vectors(lambda n, h: 1 - h),
    "number_over_activation": vectors(lambda n, h: 1 / (h.square() + 1)),
    "floor_divide": vectors(lambda n, h: h + h.detach() // 0.25),
    "times_itself": vectors(lambda n, h: h * h),
    "plus_itself": vectors(lambda n, h: h + h),
    "minus_itself": vectors(lambda n, h: h - torch.tanh(h)),
    "plus_number": vectors(lambda n, h: h + 1.5),
    "sub_alpha": vectors(lambda n, h: torch.sub(h, n.other(h), alpha=0.3), other=linear(8, 8)),
    "rsub": vectors(lambda n, h: torch.rsub(h, n.other(h)), other=linear(8, 8)),
    "plus_broadcast": sequences(lambda n, h: h + n.other(h.mean(1))[:, None], other=linear(8, 8)),
    "times_one_channel": sequences(lambda n, h: h * n.gate(h).sigmoid(), gate=linear(8, 1)),
    "stochastic_depth": vectors(
        lambda n, h: h + n.branch(h) * (torch.rand(4, 1) > 0.5 if n.training else 1), branch=linear(8, 8)
    ),
    "round_straight_through": vectors(lambda n, h: h + (h.round() - h).detach()),
    "fake_quantized": vectors(
        lambda n, h: torch.fake_quantize_per_tensor_affine(h, 0.05, 0, -64, 63), precision=torch.float32
    ),
    "fake_quantized_weight": vectors(
        lambda n, h: F.linear(
            h,
            torch.fake_quantize_per_channel_affine(
                n.w, torch.full((8,), 0.05).float(), torch.zeros(8, dtype=torch.int32), 0, -64, 63
            ),
        ),
        w=weight(8, 8),
        precision=torch.float32,
    ),
}


@entry(ELEMENTWISE, vectors, scale=linear(8, 16))
def film(n: Wired, h: Tensor) -> Tensor:
    gamma, beta = n.scale(torch.relu(h)).chunk(2, 1)
    return torch.relu(h) * (1 + gamma) + beta


@entry(ELEMENTWISE, whole, noise(4, 7), first=linear(7, 8), parts=linear(8, 4), last=linear(8, 3))
def reparameterized_sample(n: Wired, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, log_variance = n.parts(torch.relu(n.first(x))).chunk(2, 1)
    sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    return n.last(sample.repeat(1, 4)), mean, log_variance


@entry(ELEMENTWISE, sequences, up=partial(nn.Linear, 8, 6))
def rotary_positions(n: Wired, h: Tensor) -> Tensor:
    angles = torch.arange(5.0)[:, None] / 10 ** torch.arange(3.0)
    first, second = n.up(h).chunk(2, -1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1
    )
