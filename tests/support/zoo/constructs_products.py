"""Products of activations with weights and with each other; attention."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Table, Wired, entry, linear, noise, sequences, vectors, weight, whole

WEIGHTED: Table = {
    "matmul": vectors(lambda n, h: h @ n.w, w=weight(8, 6)),
    "matmul_of_transpose": vectors(lambda n, h: torch.matmul(h, n.w.mT), w=weight(6, 8)),
    "matmul_of_sequences": sequences(lambda n, h: h @ n.w, w=weight(8, 6)),
    "weight_on_the_left": vectors(lambda n, h: (n.w @ h.T).T, w=weight(6, 8)),
    "weight_mixes_positions": sequences(lambda n, h: n.w @ h, w=weight(3, 5)),
    "linear_over_positions": sequences(
        lambda n, h: n.mix(h.transpose(1, 2)).transpose(1, 2), mix=linear(5, 3)
    ),
    "linear_of_batch_axis": vectors(lambda n, h: n.mix(h.T).T, mix=linear(4, 4)),
    "linear_without_bias": vectors(lambda n, h: torch.relu(n.mix(h)), mix=linear(8, 6, bias=False)),
    "two_matmuls_in_a_row": vectors(lambda n, h: h @ n.a @ n.b, a=weight(8, 5), b=weight(5, 6)),
    "mv": vectors(lambda n, h: h * torch.mv(h, n.v)[:, None], v=weight(8)),
    "matmul_of_vector": vectors(lambda n, h: h * (h @ n.v)[:, None], v=weight(8)),
    "dot": vectors(lambda n, h: h * torch.dot(h[0], n.v), v=weight(8)),
    "inner": vectors(lambda n, h: torch.inner(h, n.w), w=weight(6, 8)),
    "outer": vectors(lambda n, h: torch.outer(h.mean(1), n.v), v=weight(8)),
    "kron": vectors(lambda n, h: torch.kron(h, n.w), w=weight(1, 3)),
    "addmm_alpha_beta": vectors(
        lambda n, h: torch.addmm(n.b, h, n.w, alpha=0.5, beta=2), b=weight(6), w=weight(8, 6)
    ),
    "addmv": vectors(lambda n, h: h * torch.addmv(n.b, h, n.v, beta=2)[:, None], b=weight(4), v=weight(8)),
    "addbmm": sequences(lambda n, h: torch.addbmm(n.b, h, n.w), b=weight(5, 6), w=weight(4, 8, 6)),
    "bmm_of_experts": vectors(
        lambda n, h: torch.bmm(h.view(4, 2, 4).transpose(0, 1), n.w).transpose(0, 1), w=weight(2, 4, 5)
    ),
    "baddbmm_of_experts": vectors(
        lambda n, h: torch.baddbmm(n.b, h.view(4, 2, 4).transpose(0, 1), n.w).permute(1, 0, 2),
        w=weight(2, 4, 5),
        b=weight(2, 1, 5),
    ),
    "experts_of_one_input": vectors(
        lambda n, h: (h @ n.w + n.b).transpose(0, 1), w=weight(3, 8, 4), b=weight(3, 1, 4)
    ),
    "einsum_linear": sequences(lambda n, h: torch.einsum("bld,de->ble", h, n.w), w=weight(8, 6)),
    "einsum_heads": sequences(
        lambda n, h: torch.einsum("bld,dhk->blhk", h, n.w).flatten(2), w=weight(8, 2, 3)
    ),
    "einsum_experts": vectors(
        lambda n, h: torch.einsum("bgi,gio->bgo", h.view(4, 2, 4), n.w), w=weight(2, 4, 5)
    ),
    "einsum_diagonal": vectors(lambda n, h: torch.einsum("bi,i->bi", h, n.v), v=weight(8)),
    "einsum_bilinear": vectors(
        lambda n, h: torch.einsum("bi,kij,bj->bk", h, n.w, torch.tanh(h)), w=weight(5, 8, 8)
    ),
    "einsum_ellipsis": sequences(lambda n, h: torch.einsum("...d,ed->...e", h, n.w), w=weight(6, 8)),
    "tensordot": sequences(lambda n, h: torch.tensordot(h, n.w, dims=([2], [1])), w=weight(6, 8)),
    "tensordot_two_axes": sequences(lambda n, h: torch.tensordot(h, n.w, dims=2)[:, None], w=weight(5, 8, 6)),
    "bilinear": vectors(lambda n, h: n.mix(h, torch.tanh(h)), mix=partial(nn.Bilinear, 8, 8, 5)),
    "bilinear_of_itself": vectors(lambda n, h: n.mix(h, h), mix=partial(nn.Bilinear, 8, 8, 5)),
    "state_space": vectors(
        lambda n, h: torch.exp(-n.rate.exp() * torch.sigmoid(h)[:, :, None]).sum(2), rate=weight(8, 3)
    ),
    "chain_matmul": vectors(
        lambda n, h: torch.linalg.multi_dot([h, n.a, n.b]), a=weight(8, 3), b=weight(3, 6)
    ),
    "linear_over_two_axes": sequences(
        lambda n, h: n.mix(h.flatten(1))[:, None].expand(4, 5, 6), mix=linear(40, 6)
    ),
    "mixer": sequences(
        lambda n, h: h + n.tokens(F.gelu(h).transpose(1, 2)).transpose(1, 2), tokens=linear(5, 5)
    ),
    "matmul_with_triangle": sequences(lambda n, h: torch.tril(n.w) @ h, w=weight(5, 5)),
    "matmul_with_buffer": vectors(lambda n, h: h @ n.w, w=noise(8, 6)),
    "solve": vectors(lambda n, h: torch.linalg.solve(n.w + 9 * torch.eye(8), h.T).T, w=weight(8, 8)),
    "matrix_exponential": vectors(lambda n, h: h @ torch.matrix_exp(n.w / 4), w=weight(8, 8)),
}


def _qkv(n: Wired, h: Tensor, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = n.qkv(h).view(4, 5, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def _joined(h: Tensor) -> Tensor:
    return h.transpose(1, 2).flatten(2)


def _attention(**options: object) -> object:
    return sequences(
        lambda n, h: _joined(F.scaled_dot_product_attention(*_qkv(n, h), **options)), qkv=linear(8, 24)
    )


_CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()

ATTENTION: Table = {
    "sdpa": _attention(),
    "sdpa_causal": _attention(is_causal=True),
    "sdpa_scale": _attention(scale=0.2),
    "sdpa_bool_mask": _attention(attn_mask=_CAUSAL),
    "sdpa_padding_mask": sequences(
        lambda n, h: _joined(
            F.scaled_dot_product_attention(
                *_qkv(n, h), attn_mask=(h[:, None, None, :, 0] > -9).expand(4, 1, 5, 5)
            )
        ),
        qkv=linear(8, 24),
    ),
    "sdpa_dropout": sequences(
        lambda n, h: _joined(F.scaled_dot_product_attention(*_qkv(n, h), dropout_p=0.5 * n.training)),
        qkv=linear(8, 24),
    ),
    "sdpa_learned_bias": sequences(
        lambda n, h: _joined(F.scaled_dot_product_attention(*_qkv(n, h), attn_mask=n.bias)),
        qkv=linear(8, 24),
        bias=weight(2, 5, 5),
    ),
    "activations_with_themselves": sequences(lambda n, h: torch.softmax(h @ h.mT, -1) @ h),
    "gram_matrix": sequences(lambda n, h: torch.bmm(h.mT, h) / 5),
    "cross_covariance": vectors(lambda n, h: h @ (h.T @ h)),
    "module_with_weights": sequences(
        lambda n, h: (lambda y, w: y + w.mean())(*n.attention(h, h, h)),
        attention=partial(nn.MultiheadAttention, 8, 2, batch_first=True),
    ),
    "module_sequence_first": sequences(
        lambda n, h: n.attention(h, h, h)[0], attention=partial(nn.MultiheadAttention, 8, 2)
    ),
    "module_separate_sizes": sequences(
        lambda n, h: n.attention(h, h[..., :4], h[..., 4:7])[0],
        attention=partial(nn.MultiheadAttention, 8, 2, kdim=4, vdim=3, batch_first=True),
    ),
    "module_bias_kv": sequences(
        lambda n, h: n.attention(h, h, h, need_weights=False)[0],
        attention=partial(
            nn.MultiheadAttention, 8, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True
        ),
    ),
    "module_masked": sequences(
        lambda n, h: n.attention(h, h, h, attn_mask=~_CAUSAL, is_causal=True, need_weights=False)[0],
        attention=partial(nn.MultiheadAttention, 8, 2, batch_first=True),
    ),
    "encoder_layer": sequences(
        lambda n, h: n.layer(h), layer=partial(nn.TransformerEncoderLayer, 8, 2, 12, batch_first=True)
    ),
    "encoder_layer_norm_first": sequences(
        lambda n, h: n.layer(h, src_key_padding_mask=torch.zeros(4, 5, dtype=torch.bool)),
        layer=partial(
            nn.TransformerEncoderLayer, 8, 2, 12, batch_first=True, norm_first=True, activation="gelu"
        ),
    ),
    "decoder_layer": sequences(
        lambda n, h: n.layer(h, torch.tanh(h)),
        layer=partial(nn.TransformerDecoderLayer, 8, 2, 12, batch_first=True),
    ),
    "transformer": sequences(
        lambda n, h: n.layers(h, h[:, :3]), layers=partial(nn.Transformer, 8, 2, 1, 1, 12, batch_first=True)
    ),
    "softmax_one": sequences(lambda n, h: F.softmax(F.pad(h @ h.mT, (0, 1)), -1)[..., :-1] @ h),
}


@entry(ATTENTION, sequences, q=linear(8, 8), kv=linear(8, 8))
def grouped_heads(n: Wired, h: Tensor) -> Tensor:
    q = n.q(h).view(4, 5, 4, 2).transpose(1, 2)
    k, v = n.kv(h).view(4, 5, 2, 2, 2).permute(2, 0, 3, 1, 4)
    return _joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


@entry(ATTENTION, sequences, q=linear(8, 8), kv=linear(8, 8))
def heads_repeated(n: Wired, h: Tensor) -> Tensor:
    q = n.q(h).view(4, 5, 4, 2).transpose(1, 2)
    k, v = n.kv(h).view(4, 5, 2, 2, 2).permute(2, 0, 3, 1, 4)
    weights = q @ k.repeat_interleave(2, 1).mT + torch.where(_CAUSAL, 0.0, -torch.inf)
    return _joined(weights.softmax(-1) @ v.repeat_interleave(2, 1))


@entry(
    ATTENTION, sequences, qkv=linear(8, 24), q_norm=partial(nn.LayerNorm, 4), k_norm=partial(nn.RMSNorm, 4)
)
def normalized_queries(n: Wired, h: Tensor) -> Tensor:
    q, k, v = _qkv(n, h)
    return _joined(F.scaled_dot_product_attention(n.q_norm(q), n.k_norm(k), v))


@entry(ATTENTION, sequences, qkv=linear(8, 24))
def linear_attention(n: Wired, h: Tensor) -> Tensor:
    q, k, v = _qkv(n, h)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return _joined(q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT))


@entry(ATTENTION, whole, noise(4, 5, 8), kv=linear(8, 16), query=weight(1, 3, 8), last=linear(8, 3))
def learned_queries(n: Wired, x: Tensor) -> Tensor:
    k, v = n.kv(x).chunk(2, -1)
    return n.last(torch.softmax(n.query @ k.mT, -1) @ v)
