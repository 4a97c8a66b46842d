"""Small constructs: one operator or one way of wiring each, between two linear layers.

A construct is a function of the network ``n`` and its input ``x`` (6 × 4). It reads ``n.a`` (4 → 8), ``n.b``
(8 → 8) and ``n.o`` (8 → 3), and further parts that stand beside it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., Any]
Parts = Callable[[], Mapping[str, Any]]


class Construct(nn.Module):
    """Three linear layers and what lies between them."""

    def __init__(self, forward: Forward, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self._forward = forward
        self.a, self.b, self.o = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(self, *args, **kwargs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def between(middle: Callable[[Any, Tensor], Tensor]) -> Forward:
    """``middle`` maps the 8 hidden neurons, of 6 samples, to 8."""
    return lambda n, x: n.o(n.b(middle(n, n.a(x))).relu())


def of_images(middle: Callable[[Any, Tensor], Tensor]) -> Forward:
    """``middle`` maps images of 4 × 8 × 5 × 5 to images with 8 channels."""
    return lambda n, x: n.o(middle(n, n.stem(x)).relu().mean((2, 3)))


def of_sequences(middle: Callable[[Any, Tensor], Tensor]) -> Forward:
    """``middle`` maps sequences of 3 × 5 × 8 to sequences with 8 features."""
    return lambda n, x: n.o(middle(n, n.a(x)).relu())


def slice_is_zero(n: Any, h: Tensor) -> Tensor:
    h[:, 2:5] = 0
    return h


def slice_is_another(n: Any, h: Tensor) -> Tensor:
    g = n.b(h)
    g[:, 1:4] = h[:, :3]
    return g


def view_is_changed(n: Any, h: Tensor) -> Tensor:
    h.view(-1).relu_()
    return h


def chunk_is_changed(n: Any, h: Tensor) -> Tensor:
    h[:, :4].view(6, 2, 2).mul_(2)
    return h


def seen_by_a_view(n: Any, h: Tensor) -> Tensor:
    g = h + 1
    seen = g.view(2, 3, 8)
    g.add_(n.b(h))
    return seen.flatten(0, 1)


def zeros_are_filled(n: Any, h: Tensor) -> Tensor:
    filled = torch.zeros(6, 8)
    filled[:, 3:] = h[:, 3:]
    return filled


def put_at_positions(n: Any, h: Tensor) -> Tensor:
    h.index_put_((torch.tensor([0, 2]),), torch.tensor(1.0))
    return h


def copied_onto(n: Any, h: Tensor) -> Tensor:
    g = torch.empty_like(h)
    g.copy_(h)
    return g


IN_PLACE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "in_place_chain": lambda n, h: h.mul_(0.5).add_(1).relu_(),
    "in_place_slice_is_zero": slice_is_zero,
    "in_place_slice_is_another": slice_is_another,
    "in_place_view": view_is_changed,
    "in_place_chunk": chunk_is_changed,
    "in_place_seen_by_a_view": seen_by_a_view,
    "in_place_zeros_filled": zeros_are_filled,
    "in_place_index_put": put_at_positions,
    "in_place_copy": copied_onto,
    "in_place_masked_fill": lambda n, h: h.masked_fill_(torch.arange(8) > 5, 0.5),
    "in_place_transpose": lambda n, h: h.t_().t(),
    "in_place_unsqueeze": lambda n, h: h.unsqueeze_(0).squeeze_(0),
    "in_place_residual": lambda n, h: n.b(h).add_(h),
    "in_place_after_dropout": lambda n, h: F.dropout(h, 0.3, n.training).relu_() + h,
    "in_place_exponent": lambda n, h: h.add_(1).exp_(),
}

MOVES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "move_view": lambda n, h: h.view(6, 2, 4).flatten(1),
    "move_permute": lambda n, h: h.view(6, 2, 4).permute(0, 2, 1).reshape(6, 8),
    "move_across_samples": lambda n, h: h.t().reshape(6, 8),
    "move_roll": lambda n, h: h.roll(3, 1),
    "move_flip": lambda n, h: h.flip(1),
    "move_repeat": lambda n, h: h.repeat(1, 2)[:, 4:12],
    "move_tile": lambda n, h: h.tile(2, 2)[::2, :8],
    "move_stack": lambda n, h: torch.stack([h[:, :4], h[:, 4:]], 2).flatten(1),
    "move_unbind": lambda n, h: torch.cat(h.view(6, 2, 4).unbind(1)[::-1], 1),
    "move_split": lambda n, h: torch.cat(h.split([3, 5], 1)[::-1], 1),
    "move_chunk": lambda n, h: torch.cat(h.tensor_split(3, 1), 1),
    "move_index": lambda n, h: h[:, [7, 0, 1, 2, 3, 4, 5, 5]],
    "move_index_of_samples": lambda n, h: h[[5, 4, 3, 3, 1, 0]],
    "move_index_select": lambda n, h: h.index_select(1, n.order),
    "move_gather": lambda n, h: h.gather(1, n.order.expand(6, 8)),
    "move_take_along": lambda n, h: h.take_along_dim(n.order.expand(6, 8), 1),
    "move_scatter": lambda n, h: torch.zeros(6, 8).scatter(1, n.order.expand(6, 8), h),
    "move_unfold": lambda n, h: h.unfold(1, 4, 4).flatten(1),
    "move_expand": lambda n, h: h[:, None, :1].expand(6, 8, 1).flatten(1),
    "move_narrow": lambda n, h: torch.cat([h.narrow(1, 2, 6), h.select(1, 0)[:, None], h[:, -1:]], 1),
    "move_repeat_interleave": lambda n, h: h[:, :4].repeat_interleave(2, 1),
    "move_diagonal": lambda n, h: h + h[:6, :6].diagonal()[:, None],
    "move_triangle": lambda n, h: h.tril(),
    "move_movedim": lambda n, h: h.view(6, 2, 2, 2).movedim(1, 3).swapaxes(1, 2).flatten(1),
    "move_pad_zero": lambda n, h: F.pad(h, (1, 1))[:, 1:9],
    "move_pad_value": lambda n, h: F.pad(h, (2, 0), value=0.5)[:, :8],
    "move_outer_sum": lambda n, h: (h[:, :, None] + h[:, None, :]).sum(2),
    "move_where": lambda n, h: torch.where(h > 0, h, n.b(h)),
    "move_cat_with_input": lambda n, h: torch.cat([h[:, :4], h.new_ones(6, 2), h[:, :2]], 1),
    "move_squeeze": lambda n, h: h[:, None].squeeze(1).contiguous().view_as(h),
}

REDUCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "reduce_max": lambda n, h: h - h.max(1, keepdim=True)[0],
    "reduce_max_of_all": lambda n, h: h / h.max(),
    "reduce_max_of_samples": lambda n, h: h - h.max(0)[0],
    "reduce_min": lambda n, h: h - h.min(0, keepdim=True).values,
    "reduce_amax": lambda n, h: h * h.amax(0),
    "reduce_aminmax": lambda n, h: h - sum(h.aminmax(dim=0)),
    "reduce_median": lambda n, h: h - h.median(0).values,
    "reduce_std": lambda n, h: h / h.std(0),
    "reduce_var_mean": lambda n, h: (h - torch.var_mean(h, 0)[1]) * torch.var_mean(h, 0)[0],
    "reduce_norm": lambda n, h: h / h.norm(dim=1, keepdim=True),
    "reduce_norm_of_samples": lambda n, h: h / torch.linalg.vector_norm(h, dim=0),
    "reduce_logsumexp": lambda n, h: h - h.logsumexp(1, keepdim=True),
    "reduce_mean_of_all": lambda n, h: h + h.mean(),
    "reduce_sum_of_samples": lambda n, h: h + h.sum(0),
    "reduce_product": lambda n, h: h + h.prod(0),
    "reduce_cumsum": lambda n, h: h.cumsum(1),
    "reduce_cumsum_of_samples": lambda n, h: h.cumsum(0),
    "reduce_cumprod": lambda n, h: h.cumprod(0),
    "reduce_topk": lambda n, h: h.topk(8, 1)[0],
    "reduce_topk_of_samples": lambda n, h: h.topk(6, 0)[0],
    "reduce_sort": lambda n, h: h.sort(0)[0],
    "reduce_argmax": lambda n, h: h.gather(1, h.argmax(1, keepdim=True).expand(6, 8)),
    "reduce_frexp": lambda n, h: torch.frexp(h)[0],
    "reduce_cummax": lambda n, h: h.cummax(0)[0],
    "reduce_quantile": lambda n, h: h - h.quantile(0.5, 0),
    "reduce_all_equal": lambda n, h: h * (h > 0).all(1, keepdim=True).logical_not(),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    f"activation_{kind.__name__.lower()}": kind
    for kind in (
        *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
        *(nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus),
        *(nn.Softshrink, nn.Softsign, nn.Tanhshrink),
    )
} | {
    "activation_threshold": lambda: nn.Threshold(0.1, 0.2),
    "activation_softmax": lambda: nn.Softmax(1),
    "activation_log_softmax": lambda: nn.LogSoftmax(1),
    "activation_softmin": lambda: nn.Softmin(0),
    "activation_prelu_of_channels": lambda: nn.PReLU(8),
    "activation_alpha_dropout": lambda: nn.AlphaDropout(0.3),
}

ELEMENTWISE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "element_glu": lambda n, h: F.glu(torch.cat([h, n.b(h)], 1), 1),
    "element_clamp": lambda n, h: h.clamp(-0.5, 0.5),
    "element_power": lambda n, h: h.square() + h.pow(3),
    "element_rsqrt": lambda n, h: (h.square() + 1).rsqrt(),
    "element_sine": lambda n, h: h.sin() + h.erf() + h.atan(),
    "element_sign": lambda n, h: h.sign() * h.abs().sqrt(),
    "element_maximum": lambda n, h: torch.maximum(h, n.b(h)),
    "element_comparison": lambda n, h: h * (h > 0),
    "element_mask": lambda n, h: h * (torch.arange(8) % 2).type_as(h),
    "element_cast_up_and_down": lambda n, h: h.to(torch.complex128).real,
    "element_lerp": lambda n, h: torch.lerp(h, n.b(h), 0.3),
    "element_addcmul": lambda n, h: torch.addcmul(h, n.b(h), h, value=0.5),
    "element_hypot": lambda n, h: torch.hypot(h, n.b(h)),
    "element_remainder": lambda n, h: h.remainder(0.7),
    "element_nan_to_num": lambda n, h: h.nan_to_num(0.0, 1.0, -1.0),
    "element_gate": lambda n, h: n.b(h).sigmoid() * h,
    "element_quotient": lambda n, h: h / (1 + n.b(h).abs()),
    "element_reversed": lambda n, h: 1 - h + 2 / (h.abs() + 1),
    "element_view_as_integers": lambda n, h: h.view(torch.int64).view(torch.float64),
}


class Made(NamedTuple):
    """What a construct is made of: its forward, its parts and its inputs."""

    forward: Forward
    parts: Parts = dict
    inputs: Callable[[], Any] = lambda: torch.randn(6, 4)


def order() -> Mapping[str, Any]:
    return {"order": torch.tensor([3, 0, 1, 2, 7, 6, 5, 4])}


CONSTRUCTS: dict[str, Made] = {
    **{
        name: Made(between(middle), order)
        for table in (IN_PLACE, MOVES, REDUCTIONS)
        for name, middle in table.items()
    },
    **{name: Made(between(middle)) for name, middle in ELEMENTWISE.items()},
    **{
        name: Made(between(lambda n, h: n.f(h)), lambda kind=kind: {"f": kind()})
        for name, kind in ACTIVATIONS.items()
    },
}


def images() -> Tensor:
    return torch.randn(4, 3, 5, 5)


def sequences() -> Tensor:
    return torch.randn(3, 5, 4)


def stem() -> nn.Module:
    return nn.Conv2d(3, 8, 3, padding=1)


def add(kind: str, table: Mapping[str, Made]) -> None:
    CONSTRUCTS.update({f"{kind}_{name}": made for name, made in table.items()})


add(
    "product",
    {
        "matmul": Made(between(lambda n, h: h @ n.w), lambda: {"w": weight(8, 8)}),
        "on_the_left": Made(lambda n, x: n.o((n.w @ n.a(x)).relu()), lambda: {"w": weight(6, 6)}),
        "bmm": Made(of_sequences(lambda n, h: torch.bmm(h, n.w)), lambda: {"w": weight(3, 8, 8)}, sequences),
        "baddbmm": Made(
            of_sequences(lambda n, h: torch.baddbmm(n.c, h, n.w)),
            lambda: {"w": weight(3, 8, 8), "c": weight(3, 1, 8)},
            sequences,
        ),
        "batched_experts": Made(
            lambda n, x: n.o(torch.einsum("bi,eio->beo", n.a(x), n.w).relu().mean(1)),
            lambda: {"w": weight(3, 8, 8)},
        ),
        "einsum_of_heads": Made(
            of_sequences(lambda n, h: torch.einsum("nld,hde->nlhe", h, n.w).flatten(2)),
            lambda: {"w": weight(2, 8, 4)},
            sequences,
        ),
        "einsum_with_dots": Made(
            of_sequences(lambda n, h: torch.einsum("...d,de->...e", h, n.w)),
            lambda: {"w": weight(8, 8)},
            sequences,
        ),
        "einsum_of_positions": Made(
            of_sequences(lambda n, h: torch.einsum("nld,lm->nmd", h, n.w)),
            lambda: {"w": weight(5, 5)},
            sequences,
        ),
        "einsum_of_activations": Made(
            of_sequences(lambda n, h: torch.einsum("nld,nmd->nlm", h, h).softmax(-1) @ h), dict, sequences
        ),
        "tensordot": Made(
            of_sequences(lambda n, h: torch.tensordot(h.view(3, 5, 2, 4), n.w, ([2, 3], [0, 1]))),
            lambda: {"w": weight(2, 4, 8)},
            sequences,
        ),
        "tensordot_with_one_axis": Made(
            between(lambda n, h: torch.tensordot(h, n.w, 1)), lambda: {"w": weight(8, 8)}
        ),
        "bilinear": Made(between(lambda n, h: n.f(h, n.b(h))), lambda: {"f": nn.Bilinear(8, 8, 8)}),
        "bilinear_with_itself": Made(between(lambda n, h: n.f(h, h)), lambda: {"f": nn.Bilinear(8, 8, 8)}),
        "mv": Made(between(lambda n, h: h * (h @ n.w)[:, None]), lambda: {"w": weight(8)}),
        "addmv": Made(
            between(lambda n, h: h * torch.addmv(n.c, h, n.w)[:, None]),
            lambda: {"w": weight(8), "c": weight(6)},
        ),
        "addmm": Made(
            between(lambda n, h: torch.addmm(n.c, h, n.w, beta=0.5, alpha=2)),
            lambda: {"w": weight(8, 8), "c": weight(8)},
        ),
        "addmm_of_activations": Made(
            between(lambda n, h: torch.addmm(h, h, n.w)), lambda: {"w": weight(8, 8)}
        ),
        "outer": Made(between(lambda n, h: torch.outer(h[:, 0], n.w)), lambda: {"w": weight(8)}),
        "kronecker": Made(between(lambda n, h: torch.kron(h[:, :4], n.w[None])), lambda: {"w": weight(2)}),
        "attention": Made(
            of_sequences(lambda n, h: F.scaled_dot_product_attention(n.b(h), h, n.b(h), is_causal=True)),
            dict,
            sequences,
        ),
        "attention_of_heads": Made(
            of_sequences(
                lambda n, h: (
                    F.scaled_dot_product_attention(
                        *(t.view(3, 5, 2, 4).transpose(1, 2) for t in (n.b(h), h, h))
                    )
                    .transpose(1, 2)
                    .flatten(2)
                )
            ),
            dict,
            sequences,
        ),
        "attention_of_grouped_heads": Made(
            of_sequences(
                lambda n, h: (
                    F.scaled_dot_product_attention(
                        h.view(3, 5, 4, 2).transpose(1, 2),
                        *(h[..., :4].view(3, 5, 2, 2).transpose(1, 2),) * 2,
                        enable_gqa=True,
                    )
                    .transpose(1, 2)
                    .flatten(2)
                )
            ),
            dict,
            sequences,
        ),
        "attention_with_a_mask": Made(
            of_sequences(lambda n, h: F.scaled_dot_product_attention(h, h, h, n.mask)),
            lambda: {"mask": torch.ones(5, 5).tril().bool()},
            sequences,
        ),
        "attention_with_learned_queries": Made(
            lambda n, x: n.o(F.scaled_dot_product_attention(n.b(n.q), n.a(x), n.a(x)).relu()),
            lambda: {"q": weight(1, 2, 8)},
            sequences,
        ),
        "multihead_attention": Made(
            of_sequences(lambda n, h: n.f(h, h, h)[0]),
            lambda: {"f": nn.MultiheadAttention(8, 2, batch_first=True)},
            sequences,
        ),
        "multihead_attention_of_other_widths": Made(
            lambda n, x: n.o(n.f(n.a(x), x, x, need_weights=False)[0].relu()),
            lambda: {"f": nn.MultiheadAttention(8, 2, kdim=4, vdim=4, add_bias_kv=True, batch_first=True)},
            sequences,
        ),
        "transformer_layer": Made(
            of_sequences(lambda n, h: n.f(h)),
            lambda: {"f": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)},
            sequences,
        ),
        "transformer_decoder_layer": Made(
            of_sequences(lambda n, h: n.f(h, n.b(h))),
            lambda: {"f": nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)},
            sequences,
        ),
    },
)

add(
    "recurrent",
    {
        **{
            f"{kind.__name__.lower()}{name}": Made(
                lambda n, x, first=first: n.o(
                    (n.f(n.a(x))[0] if not first else n.f(n.a(x))[0].flatten(-1))[..., :8].relu()
                ),
                lambda kind=kind, options=options: {"f": kind(8, 8, **options)},
                sequences,
            )
            for kind in (nn.LSTM, nn.GRU, nn.RNN)
            for name, options, first in (
                ("", {}, False),
                (
                    "_of_two_layers_both_ways",
                    {"num_layers": 2, "bidirectional": True, "batch_first": True},
                    False,
                ),
                ("_without_bias", {"bias": False, "dropout": 0.2, "num_layers": 2}, False),
            )
        },
        "relu": Made(
            of_sequences(lambda n, h: n.f(h)[0]), lambda: {"f": nn.RNN(8, 8, nonlinearity="relu")}, sequences
        ),
        "lstm_with_projection": Made(
            lambda n, x: n.o(F.pad(n.f(n.a(x))[0], (0, 5)).relu()),
            lambda: {"f": nn.LSTM(8, 8, proj_size=3)},
            sequences,
        ),
        "lstm_of_given_states": Made(
            of_sequences(lambda n, h: n.f(h, (n.b(h[:1]), h[:1]))[0]), lambda: {"f": nn.LSTM(8, 8)}, sequences
        ),
        "gru_of_a_learned_state": Made(
            of_sequences(lambda n, h: n.f(h, n.s.expand(1, 5, 8).contiguous())[0]),
            lambda: {"f": nn.GRU(8, 8), "s": weight(1, 1, 8)},
            sequences,
        ),
        "lstm_without_batch": Made(between(lambda n, h: n.f(h)[0]), lambda: {"f": nn.LSTM(8, 8)}),
        "lstm_final_states": Made(
            lambda n, x: n.o((lambda s: s[0][0] + s[1][0])(n.f(n.a(x))[1]).relu()),
            lambda: {"f": nn.LSTM(8, 8)},
            sequences,
        ),
        "lstm_cell": Made(between(lambda n, h: n.f(h, n.f(h))[0]), lambda: {"f": nn.LSTMCell(8, 8)}),
        "gru_cell": Made(between(lambda n, h: n.f(h, n.f(n.b(h), h))), lambda: {"f": nn.GRUCell(8, 8)}),
        "rnn_cell": Made(
            between(lambda n, h: n.f(h, n.f(h))), lambda: {"f": nn.RNNCell(8, 8, nonlinearity="relu")}
        ),
        "lstm_used_twice": Made(
            of_sequences(lambda n, h: n.f(n.f(h)[0])[0]), lambda: {"f": nn.LSTM(8, 8)}, sequences
        ),
    },
)


def tokens() -> Tensor:
    return torch.randint(0, 9, (4, 5))


add(
    "embedding",
    {
        "padded": Made(
            lambda n, t: n.o(n.b(n.e(t)).relu()), lambda: {"e": nn.Embedding(9, 8, padding_idx=0)}, tokens
        ),
        "renormalized": Made(
            lambda n, t: n.o(n.b(n.e(t)).relu()), lambda: {"e": nn.Embedding(9, 8, max_norm=1.0)}, tokens
        ),
        "sparse": Made(
            lambda n, t: n.o(n.e(t).mean(1)), lambda: {"e": nn.Embedding(9, 8, sparse=True)}, tokens
        ),
        "sum_of_a_bag": Made(
            lambda n, t: n.o(n.b(n.e(t)).relu()), lambda: {"e": nn.EmbeddingBag(9, 8, mode="sum")}, tokens
        ),
        "mean_of_a_bag": Made(
            lambda n, t: n.o(n.b(n.e(t.flatten(), n.off)).relu()),
            lambda: {"e": nn.EmbeddingBag(9, 8), "off": torch.tensor([0, 4, 9])},
            tokens,
        ),
        "maximum_of_a_bag": Made(
            lambda n, t: n.o(n.b(n.e(t)).relu()), lambda: {"e": nn.EmbeddingBag(9, 8, mode="max")}, tokens
        ),
        "indexed": Made(lambda n, t: n.o(n.w[t].relu()), lambda: {"w": weight(9, 8)}, tokens),
        "index_select": Made(
            lambda n, t: n.o(n.w.index_select(0, t.flatten()).relu()), lambda: {"w": weight(9, 8)}, tokens
        ),
        "of_positions": Made(
            lambda n, t: n.o(n.b(n.e(t) + n.p(torch.arange(5))).relu()),
            lambda: {"e": nn.Embedding(9, 8), "p": nn.Embedding(5, 8)},
            tokens,
        ),
        "one_hot": Made(
            lambda n, t: n.o(F.linear(F.one_hot(t, 9).double(), n.w).relu()),
            lambda: {"w": weight(8, 9)},
            tokens,
        ),
    },
)


def convolution(layer: Callable[[], nn.Module]) -> Made:
    return Made(of_images(lambda n, h: n.f(h)), lambda: {"stem": stem(), "f": layer()}, images)


add(
    "convolution",
    {
        "dilated": convolution(lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2)),
        "strided_grouped": convolution(lambda: nn.Conv2d(8, 8, 3, stride=2, groups=2)),
        "depthwise_multiplied": convolution(
            lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 8, 1))
        ),
        "without_bias": convolution(lambda: nn.Conv2d(8, 8, 3, padding="same", bias=False)),
        "reflected": convolution(lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")),
        "replicated": convolution(lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="replicate")),
        "circular": convolution(lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")),
        "transposed_grouped": convolution(
            lambda: nn.ConvTranspose2d(8, 8, 3, stride=2, groups=4, output_padding=1)
        ),
        "transposed_depthwise": convolution(lambda: nn.ConvTranspose2d(8, 8, 2, groups=8)),
        "pixel_shuffle": convolution(lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.PixelShuffle(2))),
        "pixel_unshuffle": convolution(lambda: nn.Sequential(nn.Conv2d(8, 2, 2), nn.PixelUnshuffle(2))),
        "channel_shuffle": convolution(
            lambda: nn.Sequential(nn.ChannelShuffle(4), nn.Conv2d(8, 8, 1, groups=2))
        ),
        "max_pool_with_indices": Made(
            of_images(lambda n, h: F.max_pool2d(h, 2, return_indices=True)[0]),
            lambda: {"stem": stem()},
            images,
        ),
        "average_pools": convolution(
            lambda: nn.Sequential(nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(3), nn.LPPool2d(2, 2, 1))
        ),
        "adaptive_max_pool": convolution(lambda: nn.AdaptiveMaxPool2d(2)),
        "upsampled": convolution(
            lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2))
        ),
        "bicubic": Made(
            of_images(lambda n, h: F.interpolate(h, size=7, mode="bicubic", antialias=True)),
            lambda: {"stem": stem()},
            images,
        ),
        "unfolded": Made(
            lambda n, x: n.o(n.c(F.unfold(n.stem(x), 3)).relu().mean(2)),
            lambda: {"stem": stem(), "c": nn.Conv1d(72, 8, 1)},
            images,
        ),
        "grid_sample": Made(
            of_images(
                lambda n, h: F.grid_sample(
                    h,
                    F.affine_grid(torch.eye(2, 3)[None].expand(4, 2, 3), [4, 8, 4, 4], align_corners=False),
                    align_corners=False,
                )
            ),
            lambda: {"stem": stem()},
            images,
        ),
        "without_batch": Made(
            lambda n, x: n.o(n.f(n.stem(x[0])).relu().mean((1, 2))),
            lambda: {"stem": stem(), "f": nn.Conv2d(8, 8, 3)},
            images,
        ),
        "of_a_weight_from_a_linear_layer": Made(
            of_images(lambda n, h: F.conv2d(h, n.b.weight.view(8, 8, 1, 1), n.b.bias)),
            lambda: {"stem": stem()},
            images,
        ),
        "of_a_constant_bias": Made(
            of_images(lambda n, h: F.conv2d(h, n.w, torch.ones(8))),
            lambda: {"stem": stem(), "w": weight(8, 8, 1, 1)},
            images,
        ),
        "dropped_channels": convolution(lambda: nn.Sequential(nn.Dropout2d(0.3), nn.Conv2d(8, 8, 1))),
        "channels_last": Made(
            of_images(lambda n, h: n.f(h.contiguous(memory_format=torch.channels_last))),
            lambda: {"stem": stem(), "f": nn.Conv2d(8, 8, 3)},
            images,
        ),
        "coordinates": Made(
            lambda n, x: n.o(n.f(torch.cat([n.stem(x), n.grid.expand(4, 1, 5, 5)], 1)).relu().mean((2, 3))),
            lambda: {"stem": stem(), "grid": torch.randn(1, 1, 5, 5), "f": nn.Conv2d(9, 8, 1)},
            images,
        ),
    },
)

add(
    "norm",
    {
        "batch_without_statistics": convolution(lambda: nn.BatchNorm2d(8, track_running_stats=False)),
        "batch_without_weights": convolution(
            lambda: nn.Sequential(nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 8, 1))
        ),
        "batch_of_all_time": convolution(lambda: nn.BatchNorm2d(8, momentum=None)),
        "group": convolution(lambda: nn.GroupNorm(4, 8)),
        "instance": convolution(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        "local_response": convolution(lambda: nn.Sequential(nn.LocalResponseNorm(3), nn.Conv2d(8, 8, 1))),
        "layer_without_bias": Made(between(lambda n, h: n.f(h)), lambda: {"f": nn.LayerNorm(8, bias=False)}),
        "layer_without_weights": Made(between(lambda n, h: F.layer_norm(h, (8,)))),
        "layer_of_a_scaled_weight": Made(
            between(lambda n, h: F.layer_norm(h, (8,), 1 + n.g, n.c)),
            lambda: {"g": weight(8), "c": weight(8)},
        ),
        "root_mean_square": Made(between(lambda n, h: n.f(h)), lambda: {"f": nn.RMSNorm(8)}),
        "root_mean_square_by_hand": Made(
            between(lambda n, h: n.g * h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()),
            lambda: {"g": weight(8)},
        ),
        "unit_length": Made(between(lambda n, h: F.normalize(h, dim=1) * n.g), lambda: {"g": weight(1)}),
        "batch_of_features": Made(between(lambda n, h: n.f(h)), lambda: {"f": nn.BatchNorm1d(8)}),
    },
)


def parametrized(make: Callable[[nn.Module], nn.Module]) -> Made:
    def parts() -> dict[str, nn.Module]:
        return {"f": make(nn.Linear(8, 8))}

    return Made(between(lambda n, h: n.f(h)), parts)


def changed_copy(n: Any, h: Tensor) -> Tensor:
    w = n.w.clone()
    w[:, 2:4] = 0
    return F.linear(h, w)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).t()


add(
    "computed",
    {
        "standardized": Made(
            of_images(
                lambda n, h: F.conv2d(
                    h,
                    F.batch_norm(
                        n.w.reshape(1, 8, -1), None, None, (n.g * 0.5).view(-1), training=True
                    ).reshape_as(n.w),
                )
            ),
            lambda: {"stem": stem(), "w": weight(8, 8, 3, 3), "g": weight(8, 1, 1, 1)},
            images,
        ),
        "standardized_by_hand": Made(
            of_images(
                lambda n, h: F.conv2d(
                    h, (n.w - n.w.mean((1, 2, 3), keepdim=True)) / n.w.std((1, 2, 3), keepdim=True)
                )
            ),
            lambda: {"stem": stem(), "w": weight(8, 8, 3, 3)},
            images,
        ),
        "concatenated_bias": Made(
            lambda n, x: n.o(
                F.linear(n.a(x), n.w, torch.cat([n.q, torch.zeros(8), n.v])).view(6, 3, 8).prod(1)
            ),
            lambda: {"w": weight(24, 8), "q": weight(8), "v": weight(8)},
        ),
        "chunks_of_one_weight": Made(
            between(lambda n, h: F.linear(h, n.w.chunk(3)[0]).relu() + F.linear(h, n.w.chunk(3)[2])),
            lambda: {"w": weight(24, 8)},
        ),
        "slice_of_positions": Made(
            of_sequences(lambda n, h: n.b(h + n.p[:, :5])), lambda: {"p": weight(1, 9, 8)}, sequences
        ),
        "permuted_positions": Made(
            of_sequences(lambda n, h: n.b(h + n.p.permute(2, 0, 1).flatten(1).t()[:5])),
            lambda: {"p": weight(3, 3, 8)},
            sequences,
        ),
        "resized_positions": Made(
            of_sequences(lambda n, h: n.b(h + F.interpolate(n.p, 5, mode="linear").transpose(1, 2))),
            lambda: {"p": weight(1, 8, 3)},
            sequences,
        ),
        "class_token": Made(
            lambda n, x: n.o(n.b(torch.cat([n.t.expand(3, -1, -1), n.a(x)], 1)).relu()[:, 0]),
            lambda: {"t": weight(1, 1, 8)},
            sequences,
        ),
        "class_token_with_position": Made(
            lambda n, x: n.o(
                n.b(torch.cat([(n.t + n.p[:, :1]).expand(3, -1, -1), n.a(x) + n.p[:, 1:]], 1)).relu()[:, 0]
            ),
            lambda: {"t": weight(1, 1, 8), "p": weight(1, 6, 8)},
            sequences,
        ),
        "masked": Made(
            between(lambda n, h: F.linear(h, n.w * n.m, n.c)),
            lambda: {"w": weight(8, 8), "m": torch.ones(8, 8).tril(), "c": weight(8)},
        ),
        "dropped": Made(
            between(lambda n, h: F.linear(h, F.dropout(n.w, 0.3, n.training))), lambda: {"w": weight(8, 8)}
        ),
        "times_a_number": Made(
            between(lambda n, h: F.linear(h, n.w * 0.25, n.c * 2)),
            lambda: {"w": weight(8, 8), "c": weight(8)},
        ),
        "exponential": Made(between(lambda n, h: F.linear(h, n.w.exp())), lambda: {"w": weight(8, 8)}),
        "of_rank_two": Made(
            between(lambda n, h: F.linear(h, n.u @ n.v)), lambda: {"u": weight(8, 2), "v": weight(2, 8)}
        ),
        "low_rank_update": Made(
            between(lambda n, h: F.linear(h, n.b.weight + n.u @ n.v)),
            lambda: {"u": weight(8, 2), "v": weight(2, 8)},
        ),
        "by_the_input": Made(
            lambda n, x: n.o(torch.bmm(n.h(x).view(6, 8, 8), n.a(x)[:, :, None])[..., 0].relu()),
            lambda: {"h": nn.Linear(4, 64)},
        ),
        "of_unit_length": Made(
            between(lambda n, h: F.linear(F.normalize(h), F.normalize(n.w, dim=1))),
            lambda: {"w": weight(8, 8)},
        ),
        "copied_and_changed": Made(between(changed_copy), lambda: {"w": weight(8, 8)}),
        "flipped": Made(between(lambda n, h: F.linear(h, n.w.flip(1).t())), lambda: {"w": weight(8, 8)}),
        "indexed": Made(
            between(lambda n, h: F.linear(h, n.w[torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])])),
            lambda: {"w": weight(8, 8)},
        ),
        "rows_repeated": Made(
            between(lambda n, h: F.linear(h, n.w.repeat_interleave(2, 0))), lambda: {"w": weight(4, 8)}
        ),
        "stacked": Made(
            between(lambda n, h: torch.einsum("bi,koi->bo", h, torch.stack([n.u, n.v]))),
            lambda: {"u": weight(8, 8), "v": weight(8, 8)},
        ),
        "weight_norm": parametrized(nn.utils.parametrizations.weight_norm),
        "weight_norm_of_old": parametrized(nn.utils.weight_norm),
        "spectral_norm": parametrized(nn.utils.parametrizations.spectral_norm),
        "spectral_norm_of_old": parametrized(nn.utils.spectral_norm),
        "orthogonal": parametrized(lambda f: nn.utils.parametrizations.orthogonal(f)),
        "symmetric": parametrized(
            lambda f: nn.utils.parametrize.register_parametrization(f, "weight", Symmetric())
        ),
        "factor_of_each_neuron": Made(
            between(lambda n, h: n.g * h + n.c), lambda: {"g": weight(8), "c": weight(8)}
        ),
        "factor_of_all": Made(between(lambda n, h: h * n.g.exp()), lambda: {"g": weight()}),
        "factor_used_twice": Made(between(lambda n, h: n.b(h * n.g) * n.g), lambda: {"g": weight(8)}),
        "state_space": Made(
            between(lambda n, h: (torch.exp(-n.g.exp()[None] * h[:, :, None].sigmoid())).sum(2)),
            lambda: {"g": weight(8, 3)},
        ),
    },
)


def named(part: nn.Module) -> dict[str, Any]:
    return {"f": part, "parts": nn.ModuleList([part]), "g": part}


def sharing(share: Callable[[Tensor], Tensor]) -> Parts:
    def parts() -> dict[str, nn.Module]:
        first, second = nn.Linear(8, 8), nn.Linear(8, 8)
        second.weight = nn.Parameter(share(first.weight.data))
        return {"f": first, "g": second}

    return parts


def tied() -> dict[str, nn.Module]:
    embedding = nn.Embedding(9, 8)
    head = nn.Linear(8, 9, bias=False)
    head.weight = embedding.weight
    return {"e": embedding, "h": head}


add(
    "shared",
    {
        "module_of_two_names": Made(
            between(lambda n, h: n.parts[0](n.f(h).relu())), lambda: named(nn.Linear(8, 8))
        ),
        "one_memory": Made(between(lambda n, h: n.g(n.f(h).relu())), sharing(lambda w: w)),
        "one_memory_transposed": Made(between(lambda n, h: n.g(n.f(h).relu())), sharing(lambda w: w.t())),
        "one_memory_expanded": Made(
            between(lambda n, h: n.g(n.f(h).relu())), sharing(lambda w: w[:1].expand(8, 8))
        ),
        "embedding_and_head": Made(lambda n, t: n.h(n.b(n.e(t)).relu()), tied, tokens),
        "used_in_three_ways": Made(
            between(lambda n, h: F.linear(h @ n.w, n.w).relu() + n.w.diagonal()), lambda: {"w": weight(8, 8)}
        ),
        "used_on_two_inputs": Made(lambda n, x: n.o(n.b(n.a(x)).relu() + n.b(n.a(2 * x).tanh()).relu())),
        "bias_used_twice": Made(
            between(lambda n, h: F.linear(F.linear(h, n.w, n.c).relu(), n.v, n.c)),
            lambda: {"w": weight(8, 8), "v": weight(8, 8), "c": weight(8)},
        ),
        "list_of_parameters": Made(
            between(lambda n, h: h @ n.ws[0] + n.ws[1]),
            lambda: {"ws": nn.ParameterList([weight(8, 8), weight(8)])},
        ),
        "dict_of_parameters": Made(
            between(lambda n, h: h @ n.ws["w"]), lambda: {"ws": nn.ParameterDict({"w": weight(8, 8)})}
        ),
        "unused_parameter": Made(between(lambda n, h: h), lambda: {"unused": weight(3)}),
        "frozen_parameter": Made(
            between(lambda n, h: h @ n.w), lambda: {"w": weight(8, 8).requires_grad_(False)}
        ),
    },
)


class Answer(NamedTuple):
    logits: Tensor
    hidden: Tensor


def other_wiring(n: Any, x: Tensor) -> Tensor:
    h = n.a(x).relu()
    return n.o(n.b(h if n.training else h.flip(1)).relu())


def loop(n: Any, x: Tensor) -> Tensor:
    h = n.a(x)
    for step in range(3):
        h = n.b(h).relu() if step % 2 == 0 else h + 1
    return n.o(h)


def autocast(n: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        h = n.b(n.a(x).relu())
    return n.o(h.relu())


def no_grad(n: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = n.a(x).relu()
    return n.o(n.b(h).relu())


@functools.lru_cache
def positions(count: int) -> Tensor:
    return torch.arange(count) / count


def cached(n: Any, h: Tensor) -> Tensor:
    return h + positions(8)


def lazily_registered(n: Any, h: Tensor) -> Tensor:
    if not hasattr(n, "late"):
        n.register_buffer("late", torch.arange(8.0), persistent=False)
    return h + n.late


def counted(n: Any, h: Tensor) -> Tensor:
    n.calls += 1
    return h / n.calls


def stored(n: Any, h: Tensor) -> Tensor:
    n.last = h
    return n.last.relu()


def random_mask(n: Any, h: Tensor) -> Tensor:
    kept = random.random() < 2 and np.random.rand() < 2
    return F.dropout(h, 0.4, n.training) if kept else h


def hooked(place: str) -> Parts:
    def parts() -> dict[str, nn.Module]:
        f = nn.Linear(8, 8)
        if place == "before":
            f.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        else:
            f.register_forward_hook(lambda module, args, output: output.relu() + 1)
        return {"f": f}

    return parts


add(
    "flow",
    {
        "branch_on_shapes": Made(lambda n, x: n.o(n.a(x).relu() if x.shape[0] > 2 else n.a(x))),
        "other_wiring_in_evaluation": Made(other_wiring),
        "loop": Made(loop),
        "list_of_outputs": Made(lambda n, x: [n.o(n.a(x)), [n.a(x)[:, :2]]]),
        "dictionary_of_outputs": Made(
            lambda n, x: {"out": n.o(n.b(n.a(x)).relu()), "none": None, "size": x.shape[0]}
        ),
        "named_outputs": Made(lambda n, x: Answer(n.o(n.b(n.a(x)).relu()), n.a(x))),
        "scalar_output": Made(lambda n, x: n.o(n.b(n.a(x)).relu()).square().mean()),
        "integers_beside": Made(lambda n, x: (n.o(n.a(x).relu()), n.o(n.a(x).relu()).argmax(1))),
        "input_returned": Made(lambda n, x: (n.o(n.a(x).relu()), x)),
        "parameter_returned": Made(lambda n, x: (n.o(n.a(x).relu()), n.a.weight)),
        "detached": Made(between(lambda n, h: h + n.b(h).detach())),
        "autocast_disabled": Made(autocast),
        "no_grad": Made(no_grad),
        "checkpoint": Made(between(lambda n, h: checkpoint(n.b, h, use_reentrant=False))),
        "checkpoint_reentrant": Made(between(lambda n, h: checkpoint(n.b, h, use_reentrant=True))),
        "hook_before": Made(between(lambda n, h: n.f(h)), hooked("before")),
        "hook_behind": Made(between(lambda n, h: n.f(h)), hooked("behind")),
        "stored_activation": Made(between(stored)),
        "late_buffer": Made(between(lazily_registered)),
        "cached_function": Made(between(cached)),
        "counted_calls": Made(between(counted), lambda: {"calls": torch.zeros(())}),
        "random_of_python": Made(between(random_mask)),
        "identity_layers": Made(
            between(lambda n, h: n.f(h)),
            lambda: {"f": nn.Sequential(nn.Identity(), nn.Flatten(), nn.Dropout(0.2))},
        ),
    },
)

add(
    "sizes_at_run_time",
    {
        "mask": Made(lambda n, x: n.o(n.b(n.a(x)[x[:, 0] > -9]).relu())),
        "repeated": Made(
            between(lambda n, h: h.repeat_interleave(n.counts, 0)),
            lambda: {"counts": torch.tensor([1, 2, 0, 3, 1, 1])},
        ),
        "split": Made(
            lambda n, x: torch.cat([n.o(n.b(p).relu()) for p in n.a(x).split(n.sizes.tolist())]),
            lambda: {"sizes": torch.tensor([2, 4])},
        ),
        "nonzero": Made(lambda n, x: n.o(n.b(n.a(x)[(x[:, 0] > -9).nonzero()[:, 0]]).relu())),
        "scattered_sum": Made(
            between(lambda n, h: torch.zeros(6, 8).index_add(0, n.into, h)),
            lambda: {"into": torch.tensor([0, 0, 1, 2, 3, 5])},
        ),
    },
)

add(
    "inputs",
    {
        "one_sample": Made(lambda n, x: n.o(n.b(n.a(x)).relu()), dict, lambda: torch.randn(1, 4)),
        "a_vector": Made(lambda n, x: n.o(n.b(n.a(x)).relu()), dict, lambda: torch.randn(4)),
        "a_scalar": Made(lambda n, x: n.o(n.b(n.a(x.expand(4))).relu()), dict, lambda: torch.randn(())),
        "non_contiguous": Made(between(lambda n, h: h), dict, lambda: torch.randn(4, 6).t()),
        "expanded": Made(between(lambda n, h: h), dict, lambda: torch.randn(1, 4).expand(6, 4)),
        "keywords": Made(
            lambda n, *, x, scale=1.0: n.o(n.b(n.a(x)).relu()) * scale,
            dict,
            lambda: {"x": torch.randn(6, 4), "scale": 2.0},
        ),
        "both_kinds": Made(
            lambda n, x, *, y: n.o(n.a(x).relu() + n.a(y)),
            dict,
            lambda: ((torch.randn(6, 4),), {"y": torch.randn(6, 4)}),
        ),
        "a_dictionary": Made(
            lambda n, d: n.o(n.b(n.a(d["x"])).relu()), dict, lambda: (({"x": torch.randn(6, 4)},), {})
        ),
        "nested_lists": Made(
            lambda n, xs: n.o(sum(n.a(x) for x in xs[0]).relu()),
            dict,
            lambda: ([[torch.randn(6, 4), torch.randn(6, 4)]],),
        ),
        "none_and_numbers": Made(
            lambda n, x, mask, count: n.o(n.b(n.a(x)).relu()) * count if mask is None else x,
            dict,
            lambda: (torch.randn(6, 4), None, 3),
        ),
        "integers": Made(lambda n, x: n.o(n.a(x.double()).relu()), dict, lambda: torch.randint(0, 5, (6, 4))),
    },
)

LOW_PRECISION = {"dtype_half_inside": 0.01, "dtype_single_inside": 1e-6, "dtype_single_linear": 1e-6}
"""Constructs that compute partly in bfloat16 (eps 8e-3) or float32 (eps 1e-7), and what that allows."""

ONLY_IN_EVALUATION = frozenset(["norm_batch_of_all_time"])
"""Their forward depends on values in training mode (the number of batches so far)."""

add(
    "dtype",
    {
        "integer_first": Made(
            lambda n, x: n.o(n.a(x).relu()) + 0 * n.i.sum(),
            lambda: {"i": nn.Parameter(torch.arange(4), requires_grad=False)},
        ),
        "boolean_first": Made(
            lambda n, x: n.o(n.a(x).relu() * n.i),
            lambda: {"i": nn.Parameter(torch.ones(8, dtype=torch.bool), requires_grad=False)},
        ),
        "complex_inside": Made(
            lambda n, x: n.o(n.c(n.a(x).to(torch.complex128)).abs()),
            lambda: {"c": nn.Linear(8, 8, dtype=torch.complex128)},
        ),
        "complex_of_two": Made(
            between(lambda n, h: torch.view_as_real(torch.complex(h[:, :4], h[:, 4:]).exp()).flatten(1))
        ),
        "fourier": Made(
            between(lambda n, h: torch.fft.irfft(torch.fft.rfft(h) * n.w, n=8)),
            lambda: {"w": nn.Parameter(torch.randn(5, dtype=torch.complex128))},
        ),
        "single_inside": Made(between(lambda n, h: h.float().relu().double())),
        "single_linear": Made(
            between(lambda n, h: n.f(h.float()).double()), lambda: {"f": nn.Linear(8, 8, dtype=torch.float32)}
        ),
        "half_inside": Made(
            between(lambda n, h: n.f(h.bfloat16().relu()).double()),
            lambda: {"f": nn.Linear(8, 8, dtype=torch.bfloat16)},
        ),
    },
)


def maker(made: Made) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (Construct(made.forward, made.parts()), made.inputs())


CONSTRUCT_MAKERS = {name: maker(made) for name, made in CONSTRUCTS.items()}
