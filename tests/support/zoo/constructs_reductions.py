"""Reductions, scans, orderings, and operators that return several tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .constructs import Table, Wired, entry, linear, sequences, vectors

REDUCTIONS: Table = {
    "sum": sequences(lambda n, h: h.sum(1)),
    "sum_of_all": vectors(lambda n, h: h * h.sum()),
    "sum_over_channels": sequences(lambda n, h: h + h.sum(2, keepdim=True)),
    "mean": sequences(lambda n, h: h - h.mean(1, keepdim=True)),
    "mean_over_channels": vectors(lambda n, h: h - h.mean(1, keepdim=True)),
    "prod": sequences(lambda n, h: h.prod(1)),
    "max": vectors(lambda n, h: h - h.max(1, keepdim=True)[0]),
    "max_of_all": vectors(lambda n, h: h / (h.max() + 3)),
    "min_over_batch": vectors(lambda n, h: h - h.min(0).values),
    "amax": sequences(lambda n, h: h.amax(1)),
    "amin": sequences(lambda n, h: h - h.amin((1, 2), keepdim=True)),
    "aminmax": vectors(lambda n, h: torch.cat([h, *torch.aminmax(h, dim=1, keepdim=True)], 1)),
    "median": vectors(lambda n, h: h - h.median(1, keepdim=True)[0]),
    "nanmedian_of_all": vectors(lambda n, h: h - h.nanmedian()),
    "mode": vectors(lambda n, h: h - h.mode(1, keepdim=True)[0]),
    "kthvalue": vectors(lambda n, h: h - h.kthvalue(3, 1, keepdim=True)[0]),
    "quantile": vectors(lambda n, h: h - torch.quantile(h, 0.3, 1, keepdim=True)),
    "std": vectors(lambda n, h: h / (h.std(1, keepdim=True) + 1)),
    "var": sequences(lambda n, h: h / (h.var((1, 2), keepdim=True) + 1)),
    "var_mean": vectors(
        lambda n, h: (lambda v, m: (h - m) / (v + 1).sqrt())(*torch.var_mean(h, 1, keepdim=True))
    ),
    "std_mean": vectors(lambda n, h: (lambda s, m: (h - m) / (s + 1))(*torch.std_mean(h, 0))),
    "norm": vectors(lambda n, h: h / (h.norm(dim=1, keepdim=True) + 1)),
    "norm_of_all": vectors(lambda n, h: h / (1 + torch.linalg.norm(h))),
    "norm_infinite": vectors(lambda n, h: h / (1 + torch.linalg.vector_norm(h, torch.inf, 1, keepdim=True))),
    "normalize": vectors(lambda n, h: F.normalize(h)),
    "renorm": vectors(lambda n, h: h.renorm(2, 0, 1.0)),
    "logsumexp": vectors(lambda n, h: h - h.logsumexp(1, keepdim=True)),
    "cosine_similarity": vectors(
        lambda n, h: h * F.cosine_similarity(h, n.other(h))[:, None], other=linear(8, 8)
    ),
    "pairwise_distance": vectors(
        lambda n, h: h * F.pairwise_distance(h, n.other(h))[:, None], other=linear(8, 8)
    ),
    "cdist": vectors(lambda n, h: torch.cdist(h, n.other(h)), other=linear(8, 8)),
    "trace": vectors(lambda n, h: h + h.trace()),
    "any_and_all": vectors(lambda n, h: h * (h > 0).any(1, keepdim=True) + (h > -1).all(1, keepdim=True)),
    "count_nonzero": vectors(lambda n, h: h * torch.count_nonzero(h > 0, 1)[:, None]),
    "nansum": vectors(lambda n, h: h + torch.nansum(h, 1, keepdim=True)),
    "softmax_over_batch": vectors(lambda n, h: torch.softmax(h, 0)),
}

SCANS: Table = {
    "cumsum": vectors(lambda n, h: h.cumsum(1)),
    "cumsum_over_positions": sequences(lambda n, h: h.cumsum(1)),
    "cumprod": vectors(lambda n, h: h.cumprod(1)),
    "cummax": vectors(lambda n, h: h.cummax(1).values),
    "logcumsumexp": vectors(lambda n, h: torch.logcumsumexp(h, 1)),
    "diff": vectors(lambda n, h: h.diff(dim=1)),
    "diff_over_positions": sequences(lambda n, h: h.diff(dim=1)),
    "trapezoid": sequences(lambda n, h: torch.trapezoid(h, dim=1)),
    "fft": vectors(lambda n, h: torch.fft.rfft(h).abs()),
    "linear_recurrence": sequences(
        lambda n, h: h * torch.exp(-F.softplus(n.decay(h)).cumsum(1)), decay=linear(8, 8)
    ),
}

ORDERINGS: Table = {
    "argmax_feeds_gather": vectors(lambda n, h: h + h.gather(1, h.argmax(1, keepdim=True))),
    "argmax_feeds_one_hot": vectors(lambda n, h: h * F.one_hot(h.argmax(1), 8)),
    "argmin_selects_rows": vectors(lambda n, h: h[h.argmin(0)].diagonal()[:, None] + h[:1]),
    "topk": vectors(lambda n, h: h.topk(3, 1).values),
    "topk_masks": vectors(lambda n, h: h * (h > h.topk(3, 1).values[:, -1:] - 1e-3)),
    "sort": vectors(lambda n, h: h.sort(1, descending=True).values),
    "sort_stable": vectors(lambda n, h: torch.sort(h, dim=0, stable=True)[0]),
    "msort": vectors(lambda n, h: torch.msort(h)),
    "frexp": vectors(lambda n, h: torch.frexp(h)[0]),
    "frexp_both": vectors(lambda n, h: torch.ldexp(*torch.frexp(h))),
    "searchsorted": vectors(lambda n, h: h * torch.searchsorted(torch.linspace(-1, 1, 5), h.detach())),
    "bucketize_feeds_index": vectors(
        lambda n, h: h + torch.linspace(0, 1, 6)[torch.bucketize(h.detach(), torch.linspace(-1, 1, 5))]
    ),
}


@entry(ORDERINGS, sequences, route=linear(8, 3), a=linear(8, 8), b=linear(8, 8), c=linear(8, 8))
def mixture_of_experts(n: Wired, h: Tensor) -> Tensor:
    gates, chosen = torch.softmax(n.route(h), -1).topk(2, -1)
    outputs = torch.stack([torch.relu(expert(h)) for expert in (n.a, n.b, n.c)], 2)
    picked = outputs.gather(2, chosen[..., None].expand(-1, -1, -1, 8))
    return (picked * gates[..., None]).sum(2)


@entry(ORDERINGS, vectors, codes=linear(8, 6, bias=False))
def nearest_code_straight_through(n: Wired, h: Tensor) -> Tensor:
    nearest = n.codes.weight[torch.cdist(h, n.codes.weight).argmin(1)]
    return h + (nearest - h).detach()
