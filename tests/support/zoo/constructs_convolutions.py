"""Convolutions of all kinds, and normalizations."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Table, Wired, entry, images, linear, noise, sequences, vectors, weight, whole


def _layer(make: object) -> object:
    return images(lambda n, h: n.layer(h), layer=make)


CONVOLUTIONS: Table = {
    "strided": _layer(partial(nn.Conv2d, 8, 6, 3, stride=2)),
    "dilated": _layer(partial(nn.Conv2d, 8, 6, (3, 1), dilation=2)),
    "grouped": _layer(partial(nn.Conv2d, 8, 12, 3, groups=4, bias=False)),
    "depthwise": _layer(partial(nn.Conv2d, 8, 8, 3, groups=8)),
    "depthwise_multiplier": _layer(partial(nn.Conv2d, 8, 24, 3, groups=8)),
    "same": _layer(partial(nn.Conv2d, 8, 6, (3, 2), padding="same")),
    "valid": _layer(partial(nn.Conv2d, 8, 6, 2, padding="valid")),
    **{
        f"padding_{mode}": _layer(partial(nn.Conv2d, 8, 6, 3, padding=1, padding_mode=mode))
        for mode in ("reflect", "replicate", "circular")
    },
    "transposed": _layer(partial(nn.ConvTranspose2d, 8, 6, 3, stride=2, output_padding=1)),
    "transposed_grouped": _layer(partial(nn.ConvTranspose2d, 8, 6, 3, stride=2, output_padding=1, groups=2)),
    "transposed_dilated": _layer(partial(nn.ConvTranspose2d, 8, 6, 2, dilation=2, padding=1, bias=False)),
    "transposed_depthwise": _layer(partial(nn.ConvTranspose2d, 8, 8, 2, groups=8)),
    "one_dimensional": sequences(lambda n, h: n.layer(h.mT).mT, layer=partial(nn.Conv1d, 8, 6, 3, padding=1)),
    "one_dimensional_causal": sequences(
        lambda n, h: n.layer(F.pad(h.mT, (2, 0))).mT, layer=partial(nn.Conv1d, 8, 8, 3, groups=8)
    ),
    "one_dimensional_transposed": sequences(
        lambda n, h: n.layer(h.mT).mT, layer=partial(nn.ConvTranspose1d, 8, 6, 3, stride=2)
    ),
    "over_channels": sequences(lambda n, h: n.layer(h), layer=partial(nn.Conv1d, 5, 6, 3)),
    "three_dimensional": images(
        lambda n, h: n.layer(h[:, :, None].expand(2, 8, 3, 6, 6)).mean(2), layer=partial(nn.Conv3d, 8, 6, 2)
    ),
    "three_dimensional_transposed": images(
        lambda n, h: n.layer(h[:, :, None]).mean(2), layer=partial(nn.ConvTranspose3d, 8, 6, 2, groups=2)
    ),
    "channels_as_depth": images(
        lambda n, h: n.layer(h[:, None]).flatten(1, 2), layer=partial(nn.Conv3d, 1, 2, 3)
    ),
    "unbatched": whole(
        lambda n, x: n.last(torch.relu(n.first(x))),
        noise(3, 6, 6),
        first=partial(nn.Conv2d, 3, 8, 3),
        last=partial(nn.Conv2d, 8, 4, 1),
    ),
    "functional": images(
        lambda n, h: F.conv2d(h, n.kernel, n.bias, 2, 1), kernel=weight(6, 8, 3, 3), bias=weight(6)
    ),
    "computed_weight": images(lambda n, h: F.conv2d(h, torch.tanh(n.kernel)), kernel=weight(6, 8, 3, 3)),
    "weight_from_activations": images(
        lambda n, h: F.conv2d(
            h.reshape(1, 16, 6, 6), n.kernel(h.mean((2, 3))).view(16, 1, 3, 3), groups=16
        ).view(2, 8, 4, 4),
        kernel=linear(8, 72),
    ),
    "linear_as_convolution": images(
        lambda n, h: F.conv2d(h, n.layer.weight[:, :, None, None]), layer=linear(8, 6)
    ),
    "fixed_blur": images(lambda n, h: F.conv2d(h, torch.ones(8, 1, 3, 3) / 9, groups=8)),
    "by_unfolding": images(lambda n, h: (n.w @ F.unfold(h, 3)).view(2, 6, 4, 4), w=weight(6, 72)),
    "fold_to_batch": images(
        lambda n, h: n.layer(h.transpose(1, 2).reshape(12, 8, 6)).reshape(2, 6, 6, -1).transpose(1, 2),
        layer=partial(nn.Conv1d, 8, 6, 3),
    ),
}

NORMS: Table = {
    "batch": _layer(partial(nn.BatchNorm2d, 8)),
    "batch_1d": vectors(lambda n, h: n.layer(h), layer=partial(nn.BatchNorm1d, 8)),
    "batch_1d_of_sequences": sequences(lambda n, h: n.layer(h.mT).mT, layer=partial(nn.BatchNorm1d, 8)),
    "batch_3d": images(lambda n, h: n.layer(h[:, :, None])[:, :, 0], layer=partial(nn.BatchNorm3d, 8)),
    "batch_without_statistics": _layer(partial(nn.BatchNorm2d, 8, track_running_stats=False)),
    "batch_without_affine": _layer(partial(nn.BatchNorm2d, 8, affine=False)),
    "batch_cumulative": images(
        lambda n, h: n.layer(h), layer=partial(nn.BatchNorm2d, 8, momentum=None), traced=(False,)
    ),
    "batch_in_training": images(lambda n, h: F.batch_norm(h, None, None, training=True)),
    "batch_frozen": images(
        lambda n, h: F.batch_norm(h, n.mean, n.var, n.gain, n.bias),
        mean=noise(8),
        var=lambda: torch.rand(8) + 0.5,
        gain=weight(8),
        bias=weight(8),
    ),
    "instance": _layer(partial(nn.InstanceNorm2d, 8, affine=True)),
    "instance_with_statistics": _layer(partial(nn.InstanceNorm2d, 8, track_running_stats=True)),
    "group": _layer(partial(nn.GroupNorm, 4, 8)),
    "group_of_one": _layer(partial(nn.GroupNorm, 1, 8, affine=False)),
    "layer": sequences(lambda n, h: n.layer(h), layer=partial(nn.LayerNorm, 8)),
    "layer_without_bias": sequences(lambda n, h: n.layer(h), layer=partial(nn.LayerNorm, 8, bias=False)),
    "layer_over_two_axes": sequences(lambda n, h: n.layer(h), layer=partial(nn.LayerNorm, [5, 8])),
    "layer_channels_first": images(
        lambda n, h: n.layer(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer=partial(nn.LayerNorm, 8)
    ),
    "layer_without_weight": sequences(lambda n, h: F.layer_norm(h, (8,))),
    "layer_computed_weight": sequences(
        lambda n, h: F.layer_norm(h, (8,), 1 + n.gain, n.bias), gain=weight(8), bias=weight(8)
    ),
    "layer_conditional": sequences(
        lambda n, h: F.layer_norm(h, (8,)) * (1 + n.gain(h.mean(1)))[:, None], gain=linear(8, 8)
    ),
    "rms": sequences(lambda n, h: n.layer(h), layer=partial(nn.RMSNorm, 8)),
    "rms_by_hand": sequences(
        lambda n, h: h * (h.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * n.gain, gain=weight(8)
    ),
    "rms_gain_plus_one": sequences(lambda n, h: F.rms_norm(h, (8,)) * (1 + n.gain), gain=weight(8)),
    "layer_by_hand": sequences(
        lambda n, h: n.gain * (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-6) + n.bias,
        gain=weight(8),
        bias=weight(8),
    ),
    "local_response": _layer(partial(nn.LocalResponseNorm, 3)),
    "global_response": images(
        lambda n, h: (lambda g: n.gain * h * g / (g.mean(1, keepdim=True) + 1e-6) + h)(
            h.norm(dim=(2, 3), keepdim=True)
        ),
        gain=weight(8, 1, 1),
    ),
    "affine_by_hand": images(
        lambda n, h: h * n.gain.view(1, -1, 1, 1) + n.bias[:, None, None], gain=weight(8), bias=weight(8)
    ),
    "cross_channel_bias": sequences(lambda n, h: h + n.table[: h.shape[1]], table=weight(9, 8)),
}


@entry(NORMS, images, layer=partial(nn.BatchNorm2d, 8))
def batch_called_twice(n: Wired, h: Tensor) -> Tensor:
    return n.layer(torch.relu(n.layer(h)))


@entry(NORMS, images, layer=partial(nn.BatchNorm2d, 8), modes=(False,))
def batch_of_one_value(n: Wired, h: Tensor) -> Tensor:
    return n.layer(h[:1].mean((2, 3), keepdim=True))
