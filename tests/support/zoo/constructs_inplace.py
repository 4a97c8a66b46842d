"""Operators that write into their operands, and views of what they write to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .constructs import Table, Wired, entry, images, linear, noise, sequences, vectors, weight, whole

INPLACE: Table = {
    "relu": vectors(lambda n, h: F.relu(h, inplace=True)),
    "leaky_relu": vectors(lambda n, h: F.leaky_relu_(h)),
    "dropout": vectors(lambda n, h: F.dropout(h, 0.5, n.training, inplace=True)),
    "view_relu": vectors(lambda n, h: (h.view(-1).relu_(), h)[1]),
    "add": vectors(lambda n, h: h.add_(n.other(torch.tanh(h))), other=linear(8, 8)),
    "add_alpha": vectors(lambda n, h: h.add_(n.other(torch.tanh(h)), alpha=2), other=linear(8, 8)),
    "sub": vectors(lambda n, h: h.sub_(n.other(torch.tanh(h))), other=linear(8, 8)),
    "mul": vectors(lambda n, h: h.mul_(torch.sigmoid(n.other(torch.tanh(h)))), other=linear(8, 8)),
    "div": vectors(lambda n, h: h.div_(h.detach().abs() + 1)),
    "copy": vectors(lambda n, h: h.clone().copy_(n.other(torch.tanh(h))), other=linear(8, 8)),
    "copy_to_slice": vectors(
        lambda n, h: (h[:, 2:4].copy_(n.other(torch.tanh(h))), h)[1], other=linear(8, 2)
    ),
    "masked_fill": vectors(lambda n, h: h.masked_fill_(h > 0.5, 0)),
    "index_put": vectors(
        lambda n, h: h.index_put_((torch.tensor([0, 1]), torch.tensor([2, 3])), torch.ones(2))
    ),
    "index_put_accumulate": vectors(
        lambda n, h: h.index_put_(
            (torch.tensor([0, 0]), torch.tensor([2, 2])), torch.ones(2), accumulate=True
        )
    ),
    "index_add": vectors(
        lambda n, h: h.index_add_(1, torch.tensor([1, 6]), n.other(torch.tanh(h))), other=linear(8, 2)
    ),
    "index_copy": vectors(
        lambda n, h: h.index_copy_(1, torch.tensor([1, 6]), n.other(torch.tanh(h))), other=linear(8, 2)
    ),
    "index_fill": vectors(lambda n, h: h.index_fill_(1, torch.tensor([1, 6]), 0.5)),
    "scatter": vectors(lambda n, h: h.scatter_(1, torch.tensor([[1], [2], [0], [7]]), 3.0)),
    "scatter_add": vectors(
        lambda n, h: h.scatter_add_(1, torch.tensor([[1], [2], [0], [7]]), n.other(torch.tanh(h))),
        other=linear(8, 1),
    ),
    "clamp": vectors(lambda n, h: h.clamp_(-0.5, 0.5)),
    "lerp": vectors(lambda n, h: h.lerp_(n.other(torch.tanh(h)), 0.3), other=linear(8, 8)),
    "addcmul": vectors(
        lambda n, h: h.addcmul_(n.other(torch.tanh(h)), n.gate(torch.tanh(h))),
        other=linear(8, 8),
        gate=linear(8, 8),
    ),
    "addmm": vectors(lambda n, h: h.addmm_(torch.tanh(h.clone()), n.weight), weight=weight(8, 8)),
    "fill_diagonal": vectors(lambda n, h: h.fill_diagonal_(0.0)),
    "transposed": vectors(lambda n, h: h.t_().mul_(3).t_()),
    "squeezed": vectors(lambda n, h: h.unsqueeze_(1).add_(1).squeeze_(1)),
    "noise": vectors(lambda n, h: h.add_(torch.randn_like(h))),
    "of_a_detached_view": vectors(lambda n, h: (h.detach().mul_(2), h)[1]),
    "out_argument": vectors(
        lambda n, h: torch.cat([h.detach(), h.detach()], 1, out=torch.empty(4, 16)) + n.b, b=weight(16)
    ),
    "zero_channels": images(lambda n, h: (h[:, 1::3].zero_(), h)[1]),
    "channel_gate": images(lambda n, h: h.mul_(h.mean((2, 3), keepdim=True).sigmoid())),
}


@entry(INPLACE, vectors)
def slice_to_zero(n: Wired, h: Tensor) -> Tensor:
    h[:, 2:5] = 0
    return h


@entry(INPLACE, vectors, other=linear(8, 3))
def slice_from_another_activation(n: Wired, h: Tensor) -> Tensor:
    h[:, 2:5] = n.other(torch.tanh(h))
    return h


@entry(INPLACE, vectors)
def slice_from_itself(n: Wired, h: Tensor) -> Tensor:
    h[:, :4] = h[:, 4:].clone()
    return h


@entry(INPLACE, vectors)
def halves_swapped(n: Wired, h: Tensor) -> Tensor:
    h[:, :4], h[:, 4:] = h[:, 4:].clone(), h[:, :4].clone()
    return h


@entry(INPLACE, vectors)
def slice_of_slice_of_transpose(n: Wired, h: Tensor) -> Tensor:
    h.t()[2:][1:3].mul_(3)
    return h


@entry(INPLACE, vectors)
def one_half(n: Wired, h: Tensor) -> Tensor:
    left, right = h[:, :4], h[:, 4:]
    left.relu_()
    return h + torch.cat([right, left], 1)


@entry(INPLACE, vectors)
def columns(n: Wired, h: Tensor) -> Tensor:
    h.select(1, 0).fill_(1)
    h[:, 5].neg_()
    return h


@entry(INPLACE, vectors)
def chunks_of_a_copy(n: Wired, h: Tensor) -> Tensor:
    left, right = (piece.clone() for piece in h.chunk(2, 1))
    left.relu_()
    return torch.cat([right.add_(left), left], 1)


@entry(INPLACE, vectors)
def diagonal(n: Wired, h: Tensor) -> Tensor:
    h.diagonal().zero_()
    return h


@entry(INPLACE, vectors, mix=linear(8, 8))
def shared_by_a_residual(n: Wired, h: Tensor) -> Tensor:
    shortcut = h
    h += n.mix(torch.relu(h))
    return h * 2 + shortcut


@entry(INPLACE, vectors, mix=linear(8, 8))
def view_read_after_the_base_is_written(n: Wired, h: Tensor) -> Tensor:
    view = h[:, 4:]
    h.mul_(2).add_(n.mix(torch.tanh(h)))
    return torch.cat([view, h], 1)


@entry(INPLACE, vectors)
def base_read_after_a_view_is_written_twice(n: Wired, h: Tensor) -> Tensor:
    view = h.view(4, 2, 4)
    view[:, 0].mul_(3)
    view.transpose(1, 2)[:, 1:3].add_(1)
    return h


@entry(INPLACE, vectors)
def rows_by_index(n: Wired, h: Tensor) -> Tensor:
    h[torch.tensor([0, 2])] += 1.5
    return h


@entry(INPLACE, vectors)
def positions_by_mask(n: Wired, h: Tensor) -> Tensor:
    h[h < 0] = 0.1
    return h


@entry(INPLACE, vectors)
def zeros_filled_with_columns(n: Wired, h: Tensor) -> Tensor:
    filled = torch.zeros(4, 10)
    filled[:, 1:9:2] = h[:, ::2]
    return filled


@entry(INPLACE, vectors)
def empty_filled_in_a_loop(n: Wired, h: Tensor) -> Tensor:
    filled = torch.empty_like(h)
    for column in range(8):
        filled[:, column] = h[:, 7 - column]
    return filled


@entry(INPLACE, sequences, step=linear(8, 8))
def sequence_filled_in_a_loop(n: Wired, h: Tensor) -> Tensor:
    states = h.new_zeros(4, 5, 8)
    state = h[:, 0]
    for position in range(5):
        state = torch.tanh(n.step(state) + h[:, position])
        states[:, position] = state
    return states


@entry(INPLACE, whole, noise(4, 8), first=linear(8, 8), last=linear(8, 3))
def of_the_input(n: Wired, x: Tensor) -> Tensor:
    x.relu_()
    return n.last(torch.tanh(n.first(x)) + x)
