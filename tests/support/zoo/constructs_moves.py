"""Operators that move data: views, copies, gathers, pads and resampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import Table, Wired, entry, images, linear, sequences, vectors

_COLUMNS = [3, 1, 4, 1, 5]

VIEWS: Table = {
    "view": vectors(lambda n, h: h.view(4, 2, 4).transpose(1, 2).reshape(4, 8)),
    "permute": vectors(lambda n, h: h.reshape(4, 2, 2, 2).permute(0, 3, 1, 2)),
    "movedim": vectors(lambda n, h: h.unflatten(1, (2, 4)).movedim(1, 2)),
    "swapaxes": vectors(lambda n, h: h.reshape(4, 4, 2).swapaxes(1, 2)),
    "matrix_transposes": vectors(lambda n, h: h.T.mT.adjoint().t()),
    "squeeze": vectors(lambda n, h: h[:, None].squeeze(1).unsqueeze(-1).squeeze()),
    "expand": vectors(lambda n, h: h[:, :, None].expand(-1, -1, 3)),
    "expand_as": vectors(lambda n, h: h[:, None].expand_as(torch.zeros(4, 2, 8))),
    "broadcast_to": vectors(lambda n, h: torch.broadcast_to(h[:, None], (4, 3, 8))),
    "narrow": vectors(lambda n, h: h.narrow(1, 2, 4)),
    "select": vectors(lambda n, h: h.reshape(4, 2, 4).select(1, 1)),
    "slice_with_step": vectors(lambda n, h: torch.cat([h[:, ::3], h[:, -2:]], 1)),
    "ellipsis": vectors(lambda n, h: h.reshape(4, 2, 4)[..., 1:, None]),
    "diagonal": vectors(lambda n, h: h.reshape(4, 2, 4).diagonal(dim1=1, dim2=2)),
    "unfold": vectors(lambda n, h: h.unfold(1, 4, 2)),
    "as_strided": vectors(lambda n, h: h.as_strided((4, 3), (8, 2))),
    "chunk_uneven": vectors(lambda n, h: torch.cat(h.chunk(3, 1)[::-1], 1)),
    "split": vectors(lambda n, h: torch.stack(h.split(4, 1), 2)),
    "split_with_list": vectors(lambda n, h: torch.cat(h.split([5, 1, 2], 1)[1:], 1)),
    "tensor_split": vectors(lambda n, h: torch.cat(torch.tensor_split(h, (1, 6), 1)[::2], 1)),
    "hsplit": vectors(lambda n, h: torch.hstack(torch.hsplit(h, 4)[1:])),
    "unbind": vectors(lambda n, h: torch.stack(h.unbind(1)[::-1], 1)),
    "atleast_3d": vectors(lambda n, h: torch.atleast_3d(h)),
    "patches": images(
        lambda n, h: h.reshape(2, 8, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 32, 3, 3)
    ),
    "space_in_batch": images(lambda n, h: h.permute(0, 2, 3, 1).reshape(-1, 8)[:, :, None, None]),
}

COPIES: Table = {
    "clone": vectors(lambda n, h: h.clone().contiguous()),
    "roll": vectors(lambda n, h: h.roll((1, 3), (0, 1))),
    "roll_flat": vectors(lambda n, h: h.roll(3)),
    "flip": vectors(lambda n, h: h.flip(1)),
    "fliplr_flipud": vectors(lambda n, h: torch.fliplr(torch.flipud(h))),
    "rot90": images(lambda n, h: torch.rot90(h, 1, (2, 3))),
    "repeat": vectors(lambda n, h: h.repeat(1, 2)),
    "tile": vectors(lambda n, h: torch.tile(h, (2,))),
    "repeat_interleave": vectors(lambda n, h: h.repeat_interleave(2, 1)),
    "stack": vectors(lambda n, h: torch.stack([h, torch.tanh(h)], 1)),
    "column_and_depth_stack": vectors(
        lambda n, h: torch.dstack([torch.column_stack([h, h[:, 0]]), torch.zeros(4, 9)])
    ),
    "vstack": vectors(lambda n, h: torch.vstack([h[2:], h[:2]])),
    "cat_along_the_batch": vectors(lambda n, h: torch.cat([h, n.other(h)]), other=linear(8, 8)),
    "cat_of_one": vectors(lambda n, h: torch.cat([h], 1)),
    "block_diag": vectors(lambda n, h: torch.block_diag(h[:2], h[2:])),
    "diag_embed": vectors(lambda n, h: h.diag_embed()),
    "tril": vectors(lambda n, h: h.tril() + h.triu(2)),
    "meshgrid": vectors(lambda n, h: torch.stack(torch.meshgrid(h[0], h[1], indexing="ij"), 1)),
    "channels_last": images(lambda n, h: h.contiguous(memory_format=torch.channels_last)),
    "pixel_shuffle": images(lambda n, h: F.pixel_shuffle(h, 2)),
    "pixel_unshuffle": images(lambda n, h: F.pixel_unshuffle(h, 3)),
    "channel_shuffle": images(lambda n, h: n.shuffle(h), shuffle=lambda: nn.ChannelShuffle(4)),
    "im2col": images(lambda n, h: F.unfold(h, 3, padding=1)[..., None]),
    "col2im": images(lambda n, h: F.fold(h.reshape(2, 32, 9), (6, 6), 2, stride=2)),
    "shifted_windows": images(
        lambda n, h: (
            h.roll((-1, -1), (2, 3)).reshape(2, 8, 2, 3, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(8, 8, 3, 3)
        )
    ),
}

GATHERS: Table = {
    "index_columns": vectors(lambda n, h: h[:, torch.tensor(_COLUMNS)]),
    "index_with_list": vectors(lambda n, h: h[[0, 2, 2]]),
    "index_both_axes": vectors(lambda n, h: h[torch.arange(4)[:, None], torch.tensor([_COLUMNS] * 4)]),
    "index_with_none": vectors(lambda n, h: h[:, None, torch.tensor(_COLUMNS)]),
    "index_constant_mask": vectors(lambda n, h: h[:, torch.tensor([True, False] * 4)]),
    "index_select": vectors(lambda n, h: h.index_select(1, torch.tensor(_COLUMNS))),
    "gather": vectors(lambda n, h: h.gather(1, torch.tensor([[0, 1], [7, 2], [3, 3], [5, 4]]))),
    "take_along_dim": vectors(lambda n, h: torch.take_along_dim(h, h.argsort(1), 1)),
    "take": vectors(lambda n, h: h.take(torch.tensor([[0, 9], [17, 25]]))),
    "where_constant": vectors(lambda n, h: torch.where(torch.tensor([True, False] * 4), h, 0.5)),
    "select_scatter": vectors(lambda n, h: h.select_scatter(torch.zeros(4), 1, 3)),
    "slice_scatter": vectors(lambda n, h: h.slice_scatter(n.other(h), 1, 2, 5), other=linear(8, 3)),
    "diagonal_scatter": vectors(lambda n, h: h.diagonal_scatter(torch.ones(4))),
    "scatter": vectors(lambda n, h: torch.zeros(4, 9).scatter(1, torch.arange(8).flip(0).repeat(4, 1), h)),
    "scatter_add": vectors(
        lambda n, h: torch.zeros(4, 3).scatter_add(1, (torch.arange(8) % 3).repeat(4, 1), h)
    ),
    "scatter_reduce": vectors(
        lambda n, h: torch.zeros(4, 3).scatter_reduce(1, (torch.arange(8) % 3).repeat(4, 1), h, "amax")
    ),
    "index_add": vectors(lambda n, h: torch.zeros(4, 3).index_add(1, torch.arange(8) % 3, h)),
    "index_reduce": vectors(lambda n, h: torch.ones(4, 3).index_reduce(1, torch.arange(8) % 3, h, "mean")),
    "index_copy": vectors(lambda n, h: torch.ones(4, 9).index_copy(1, torch.arange(8), h)),
    "index_put": vectors(lambda n, h: h.index_put((torch.tensor([1]), torch.tensor([3])), h.sum())),
    "masked_scatter": vectors(lambda n, h: torch.zeros(4, 8).masked_scatter(h > 0, h)),
    "masked_fill": vectors(lambda n, h: h.masked_fill(torch.tensor([True, False] * 4), -1.0)),
    "messages_of_a_graph": vectors(
        lambda n, h: torch.zeros_like(h).index_add(
            0, torch.tensor([0, 1, 1, 3]), n.message(h[torch.tensor([3, 2, 0, 0])])
        ),
        message=linear(8, 8),
    ),
}

RESAMPLING: Table = {
    **{
        f"pad_{mode}": images(lambda n, h, mode=mode: F.pad(h, (1, 2, 2, 1), mode))
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "pad_with_value": images(lambda n, h: F.pad(h, (1, 1), value=0.5)),
    "pad_channels": images(lambda n, h: F.pad(h, (0, 0, 0, 0, 2, 2))),
    "pad_negative": images(lambda n, h: F.pad(h, (-1, 1, -1, 0))),
    "pad_modules": images(
        lambda n, h: n.zero(n.mirror(h)), zero=lambda: nn.ZeroPad2d(1), mirror=lambda: nn.ReflectionPad2d(1)
    ),
    **{
        f"interpolate_{mode}": images(lambda n, h, mode=mode: F.interpolate(h, scale_factor=2, mode=mode))
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    },
    "interpolate_antialias": images(lambda n, h: F.interpolate(h, (4, 4), mode="bilinear", antialias=True)),
    "interpolate_aligned": images(lambda n, h: F.interpolate(h, (9, 9), mode="bilinear", align_corners=True)),
    "grid_sample": images(
        lambda n, h: F.grid_sample(
            h, F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), (2, 8, 4, 4), False), align_corners=False
        )
    ),
    "grid_from_activations": images(
        lambda n, h: F.grid_sample(h, torch.tanh(n.offsets(h)).permute(0, 2, 3, 1), align_corners=False),
        offsets=lambda: nn.Conv2d(8, 2, 1),
    ),
    "avg_pool_ceil": images(lambda n, h: F.avg_pool2d(h, 4, 3, 1, ceil_mode=True, count_include_pad=False)),
    "max_pool_dilated": images(lambda n, h: F.max_pool2d(h, 2, 1, dilation=2)),
    "max_unpool": images(lambda n, h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2)),
    "lp_pool": images(lambda n, h: F.lp_pool2d(F.relu(h) + 0.1, 2, 2)),
    "fractional_max_pool": images(lambda n, h: F.fractional_max_pool2d(h, 2, output_size=(3, 3))),
    "adaptive_max_pool": images(lambda n, h: F.adaptive_max_pool2d(h, (2, 3))),
    "adaptive_avg_pool": images(lambda n, h: F.adaptive_avg_pool2d(h, (4, 3))),
    "pool_1d": sequences(lambda n, h: F.adaptive_avg_pool1d(F.max_pool1d(h, 2), 3)),
    "pool_over_channels": sequences(lambda n, h: F.avg_pool1d(h, 4, 2)),
    "pool_3d": images(lambda n, h: F.max_pool3d(F.avg_pool3d(h, (2, 1, 1)), 2)),
}


@entry(GATHERS, vectors)
def sorted_by_another_activation(n: Wired, h: Tensor) -> Tensor:
    order = h.sum(1).argsort()
    return h[order]


@entry(COPIES, images)
def coordinates_appended(n: Wired, h: Tensor) -> Tensor:
    row = torch.linspace(-1, 1, 6).view(1, 1, 6, 1).expand(2, 1, 6, 6)
    return torch.cat([h, row, row.transpose(2, 3)], 1)
