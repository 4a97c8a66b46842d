"""Weights that are computed from parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from .constructs import (
    Construct,
    Table,
    Wired,
    entry,
    images,
    linear,
    noise,
    sequences,
    vectors,
    weight,
    whole,
)


def _weight(compute: Callable[[Wired], Tensor], **parts: Any) -> Construct:
    """A linear layer from 8 to 6 with a computed weight."""
    return vectors(lambda n, h: torch.relu(F.linear(h, compute(n))), **parts)


def _with(
    function: Callable[..., nn.Module], make: Callable[[], nn.Module], **options: Any
) -> Callable[[], nn.Module]:
    def wrapped() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # the old ways to normalize a weight are constructs too
            return function(make(), **options)

    return wrapped


class _Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


def _layer(make: Callable[[], nn.Module]) -> Construct:
    return vectors(lambda n, h: torch.relu(n.layer(h)), layer=make)


COMPUTED: Table = {
    "abs": _weight(lambda n: n.w.abs(), w=weight(6, 8)),
    "exp": _weight(lambda n: n.w.exp(), w=weight(6, 8)),
    "sign": _weight(lambda n: n.w.sign(), w=weight(6, 8)),
    "sign_straight_through": _weight(lambda n: n.w + (n.w.sign() - n.w).detach(), w=weight(6, 8)),
    "softmax": _weight(lambda n: n.w.softmax(1), w=weight(6, 8)),
    "times_number": _weight(lambda n: n.w * 0.35, w=weight(6, 8)),
    "over_number": _weight(lambda n: n.w / 3, w=weight(6, 8)),
    "negated": _weight(lambda n: -n.w, w=weight(6, 8)),
    "plus_number": _weight(lambda n: n.w + 1, w=weight(6, 8)),
    "plus_weight": _weight(lambda n: n.v + n.w, v=weight(6, 8), w=weight(6, 8)),
    "times_mask": _weight(
        lambda n: n.w * n.mask, w=weight(6, 8), mask=lambda: (torch.rand(6, 8) > 0.3).double()
    ),
    "times_row_gains": _weight(lambda n: n.w * n.gain, w=weight(6, 8), gain=weight(6, 1)),
    "times_column_gains": _weight(lambda n: n.w * n.gain, w=weight(6, 8), gain=weight(8)),
    "low_rank": _weight(lambda n: n.a @ n.b, a=weight(6, 2), b=weight(2, 8)),
    "low_rank_update": vectors(
        lambda n, h: torch.relu(n.layer(h) + 0.5 * (h @ n.a @ n.b)),
        layer=linear(8, 6),
        a=weight(8, 2),
        b=weight(2, 6),
    ),
    "low_rank_sum": _weight(lambda n: n.w + 2 * n.a @ n.b, w=weight(6, 8), a=weight(6, 2), b=weight(2, 8)),
    "dropped": _weight(lambda n: F.dropout(n.w, 0.5, n.training), w=weight(6, 8)),
    "standardized": images(
        lambda n, h: torch.relu(
            F.conv2d(h, (n.w - n.w.mean((1, 2, 3), keepdim=True)) / (n.w.std((1, 2, 3), keepdim=True) + 1e-5))
        ),
        w=weight(6, 8, 3, 3),
    ),
    "standardized_by_batch_norm": images(
        lambda n, h: F.conv2d(
            h, F.batch_norm(n.w.reshape(1, 6, -1), None, None, n.gain, training=True).view_as(n.w)
        ),
        w=weight(6, 8, 3, 3),
        gain=weight(6),
    ),
    "normalized": _weight(lambda n: F.normalize(n.w, dim=1), w=weight(6, 8)),
    "cosine_classifier": vectors(lambda n, h: 5 * F.linear(F.normalize(h), F.normalize(n.w)), w=weight(6, 8)),
    "cat_of_two": _weight(lambda n: torch.cat([n.v, n.w]), v=weight(2, 8), w=weight(4, 8)),
    "cat_along_inputs": _weight(lambda n: torch.cat([n.v, n.w], 1), v=weight(6, 3), w=weight(6, 5)),
    "stack_of_rows": _weight(lambda n: torch.stack([n.v, n.w, n.v * 2]), v=weight(8), w=weight(8)),
    "slice": _weight(lambda n: n.w[:6, 1:9], w=weight(7, 9)),
    "halves_of_one": vectors(
        lambda n, h: F.linear(torch.relu(F.linear(h, n.w[:8])), n.w[8:], n.b[8:]),
        w=weight(12, 8),
        b=weight(12),
    ),
    "chunked": vectors(
        lambda n, h: torch.cat(
            [F.linear(h, w, b) for w, b in zip(n.w.chunk(3), n.b.chunk(3), strict=True)], 1
        ),
        w=weight(9, 8),
        b=weight(9),
    ),
    "permuted": _weight(lambda n: n.w[torch.tensor([5, 0, 3, 1, 2, 4])], w=weight(6, 8)),
    "flipped": _weight(lambda n: n.w.flip(0), w=weight(6, 8)),
    "reshaped": _weight(lambda n: n.w.view(6, 8), w=weight(48)),
    "expanded": _weight(lambda n: n.w.expand(6, 8), w=weight(1, 8)),
    "repeated": _weight(lambda n: n.w.repeat(2, 1), w=weight(3, 8)),
    "transposed": _weight(lambda n: n.w.mT, w=weight(8, 6)),
    "rows_repeated": _weight(lambda n: n.w.repeat_interleave(2, 0), w=weight(3, 8)),
    "triangular": _weight(lambda n: n.w.tril(), w=weight(6, 8)),
    "symmetric": vectors(lambda n, h: F.linear(h, n.w + n.w.mT), w=weight(8, 8)),
    "skew_exponential": vectors(lambda n, h: h @ torch.matrix_exp(n.w - n.w.mT), w=weight(8, 8)),
    "diagonal": vectors(lambda n, h: h @ torch.diag(n.w), w=weight(8)),
    "diag_embed": vectors(lambda n, h: h @ torch.diag_embed(n.w)[0], w=weight(2, 8)),
    "block_diagonal": vectors(lambda n, h: h @ torch.block_diag(n.v, n.w), v=weight(3, 2), w=weight(5, 4)),
    "kronecker": _weight(lambda n: torch.kron(n.v, n.w), v=weight(3, 2), w=weight(2, 4)),
    "outer": _weight(lambda n: torch.outer(n.v, n.w), v=weight(6), w=weight(8)),
    "quantized": _weight(lambda n: (n.w * 8).round() / 8, w=weight(6, 8)),
    "clamped": _weight(lambda n: n.w.clamp(-1, 1), w=weight(6, 8)),
    "sampled": vectors(
        lambda n, h: F.linear(h, n.mean + F.softplus(n.rho) * torch.randn_like(n.mean)),
        mean=weight(6, 8),
        rho=weight(6, 8),
    ),
    "detached": vectors(lambda n, h: n.layer(h) + F.linear(h, n.layer.weight.detach()), layer=linear(8, 6)),
    "from_activations": vectors(
        lambda n, h: torch.bmm(n.make(h).view(4, 6, 8), torch.tanh(h)[:, :, None])[..., 0], make=linear(8, 48)
    ),
    "from_a_code": _weight(lambda n: n.make(n.latent).view(6, 8), make=linear(3, 48), latent=weight(3)),
    "from_the_mean_activation": vectors(
        lambda n, h: F.linear(h, n.make(h.mean(0)).view(6, 8)), make=linear(8, 48)
    ),
    "mixed_by_attention": vectors(
        lambda n, h: torch.einsum("be,eoi,bi->bo", n.route(h).softmax(1), n.w, h),
        route=linear(8, 3),
        w=weight(3, 6, 8),
    ),
    "bias_of_queries_and_values": sequences(
        lambda n, h: torch.tanh(F.linear(h, n.w, torch.cat([n.q, torch.zeros(4), n.v]))),
        w=weight(12, 8),
        q=weight(4),
        v=weight(4),
    ),
    "bias_clamped_scale": sequences(lambda n, h: h * n.log_scale.clamp(max=4.6).exp(), log_scale=weight(8)),
    "bias_from_norm_of_weight": vectors(lambda n, h: h + n.w.norm(), w=weight(6, 8)),
    "position_table_resampled": images(
        lambda n, h: h + F.interpolate(n.table.permute(0, 3, 1, 2), (6, 6), mode="bilinear"),
        table=weight(1, 3, 3, 8),
    ),
    "position_table_sliced": sequences(lambda n, h: h + n.table[:, 1:6].roll(1, 1), table=weight(1, 9, 8)),
    "position_table_of_two_axes": images(
        lambda n, h: h + n.rows.T[None, :, :, None] + n.columns.T[None, :, None],
        rows=weight(6, 8),
        columns=weight(6, 8),
    ),
    "bias_table_gathered": sequences(
        lambda n, h: (
            (h @ h.mT + n.table[torch.arange(25) % 9].view(5, 5, 2).permute(2, 0, 1)[0]).softmax(-1) @ h
        ),
        table=weight(9, 2),
    ),
    "loss_of_a_weight": whole(
        lambda n, x: (n.last(torch.relu(n.first(x))), n.first.weight.square().sum()),
        noise(4, 7),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
}

NORMALIZED: Table = {
    "weight_norm": _layer(_with(parametrizations.weight_norm, linear(8, 6))),
    "weight_norm_old": _layer(_with(nn.utils.weight_norm, linear(8, 6))),
    "weight_norm_of_convolution": images(
        lambda n, h: n.layer(h), layer=_with(parametrizations.weight_norm, partial(nn.Conv2d, 8, 6, 3))
    ),
    "weight_norm_of_all": _layer(_with(nn.utils.weight_norm, linear(8, 6), dim=None)),
    "spectral_norm": _layer(_with(parametrizations.spectral_norm, linear(8, 6))),
    "spectral_norm_old": _layer(_with(nn.utils.spectral_norm, linear(8, 6))),
    "orthogonal": _layer(_with(parametrizations.orthogonal, linear(8, 8))),
    "orthogonal_by_cayley": _layer(_with(parametrizations.orthogonal, linear(8, 6), orthogonal_map="cayley")),
    "parametrized": _layer(
        lambda: parametrize.register_parametrization(nn.Linear(8, 8), "weight", _Symmetric())
    ),
    "pruned": _layer(lambda: prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5)),
}


@entry(COMPUTED, vectors, w=weight(6, 8))
def clone_written_in_place(n: Wired, h: Tensor) -> Tensor:
    w = n.w.clone()
    w[:, 2:4] = 0
    return torch.relu(F.linear(h, w))
