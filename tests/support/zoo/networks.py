"""Tiny networks that are wired as real ones are; ``ZOO`` maps a name to a maker of network and inputs.

``CONSTRUCTS`` joins them with the tables in which every construct has a network of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.releases import torch_is

from .constructs import Construct, Table, Wired
from .constructs_convolutions import CONVOLUTIONS, NORMS
from .constructs_dtypes import DTYPES, REGIONS
from .constructs_elementwise import ACTIVATIONS, ELEMENTWISE
from .constructs_inplace import INPLACE
from .constructs_interfaces import INPUTS, OUTPUTS
from .constructs_moves import COPIES, GATHERS, RESAMPLING, VIEWS
from .constructs_products import ATTENTION, WEIGHTED
from .constructs_python import CONTROL, HOOKS, SIZES, STATES
from .constructs_recurrent import EMBEDDINGS, RECURRENT
from .constructs_reductions import ORDERINGS, REDUCTIONS, SCANS
from .constructs_ties import TIES
from .constructs_weights import COMPUTED, NORMALIZED

Made = tuple[nn.Module, tuple[Tensor, ...]]


def image(channels: int = 3, size: int = 6) -> Tensor:
    return torch.randn(4, channels, size, size)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def head(channels: int = 6) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def mlp() -> Made:
    return nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (
        torch.randn(4, 7),
    )


def _residual(operands: Callable[[Tensor, Tensor], Tensor], inplace: bool = False) -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x), inplace=inplace)
        return n.head(F.relu(operands(x, n.bn(n.conv(x))), inplace=inplace))

    return Wired(forward, stem=conv(3, 6), conv=conv(6, 6), bn=nn.BatchNorm2d(6), head=head()), (image(),)


def residual() -> Made:
    return _residual(lambda x, h: x + h)


def residual_reversed() -> Made:
    return _residual(lambda x, h: h + x)


def residual_inplace() -> Made:
    def add(x: Tensor, h: Tensor) -> Tensor:
        h += x
        return h

    return _residual(add, inplace=True)


def residual_projection() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.head(F.relu(n.bn(n.conv(x)) + n.short_bn(n.short(x))))

    parts = {"stem": conv(3, 4), "conv": conv(4, 6), "bn": nn.BatchNorm2d(6)}
    return Wired(forward, **parts, short=conv(4, 6, 1), short_bn=nn.BatchNorm2d(6), head=head()), (image(),)


def concat() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        a = F.elu(n.a(x))
        return n.head(torch.sigmoid(n.c(torch.cat([a, n.b(a), x], 1))))

    return Wired(forward, a=conv(3, 4), b=conv(4, 2), c=conv(9, 6), head=head()), (image(),)


def grouped() -> Made:
    layers = [conv(3, 6), nn.Tanh(), conv(6, 9, groups=3), nn.ReLU(), conv(9, 6), nn.ReLU()]
    return nn.Sequential(*layers, head()), (image(),)


def depthwise() -> Made:
    layers = [
        conv(3, 6),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        conv(6, 12, groups=6),
        nn.Hardswish(),
        conv(12, 6, 1),
    ]
    return nn.Sequential(*layers, head()), (image(),)


def transposed() -> Made:
    up = nn.ConvTranspose2d(4, 6, 2, stride=2)
    grouped_up = nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False)
    return nn.Sequential(conv(3, 4), nn.ReLU(), up, nn.Tanh(), grouped_up, nn.Softplus(), head(8)), (image(),)


def channel_shuffle() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        kept, moved = n.stem(x).chunk(2, dim=1)
        x = torch.cat([kept, F.relu(n.branch(moved))], 1)
        batch, channels, height, width = x.shape
        x = (
            x.view(batch, 2, channels // 2, height, width)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
        return n.head(F.relu(n.mix(x)))

    return Wired(forward, stem=conv(3, 8), branch=conv(4, 4), mix=conv(8, 6), head=head()), (image(),)


def squeeze_and_excite() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.silu(n.stem(x))
        gate = torch.sigmoid(n.expand(F.relu(n.squeeze(x.mean((2, 3), keepdim=True)))))
        return n.head(n.project(gate * x))

    parts = {"stem": conv(3, 8), "squeeze": conv(8, 2, 1), "expand": conv(2, 8, 1), "project": conv(8, 6, 1)}
    return Wired(forward, **parts, head=head()), (image(),)


def self_attention() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        normed = n.norm1(x)
        x = x + n.attention(normed, normed, normed, need_weights=False)[0]
        return n.head(n.mlp(n.norm2(x)).mean(1))

    mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    parts = {"norm1": nn.LayerNorm(8), "attention": attention, "norm2": nn.LayerNorm(8), "mlp": mlp}
    return Wired(forward, **parts, head=nn.Linear(8, 3)), (torch.randn(4, 5, 8),)


def explicit_attention() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        q, k, v = n.qkv(n.norm(x)).view(4, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / 2, -1)
        return n.head(n.proj((weights @ v).transpose(1, 2).reshape(4, 5, 8)).mean(1))

    parts = {
        "norm": nn.LayerNorm(8),
        "qkv": nn.Linear(8, 24),
        "proj": nn.Linear(8, 8),
        "head": nn.Linear(8, 3),
    }
    return Wired(forward, **parts), (torch.randn(4, 5, 8),)


def module_used_twice() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = torch.tanh(n.first(x))
        return n.last(torch.tanh(n.again(torch.tanh(n.again(x)))))

    return Wired(forward, first=nn.Linear(7, 6), again=nn.Linear(6, 6), last=nn.Linear(6, 3)), (
        torch.randn(4, 7),
    )


def norm_used_twice() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = n.norm(n.first(x))
        return n.last(n.norm(F.relu(n.second(F.relu(x)))))

    parts = {
        "first": nn.Linear(7, 6),
        "second": nn.Linear(6, 6),
        "norm": nn.LayerNorm(6),
        "last": nn.Linear(6, 3),
    }
    return Wired(forward, **parts), (torch.randn(4, 7),)


def tied_weights() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        return n.last(F.relu(n.decode(F.relu(n.encode(F.relu(n.first(x)))))))

    network = Wired(
        forward, first=nn.Linear(7, 6), encode=nn.Linear(6, 6), decode=nn.Linear(6, 6), last=nn.Linear(6, 3)
    )
    network.decode.weight = network.encode.weight
    return network, (torch.randn(4, 7),)


def tied_transpose() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        hidden = F.relu(n.encode(x))
        return n.last(F.relu(F.linear(hidden, n.encode.weight.t())))

    return Wired(forward, encode=nn.Linear(7, 6), last=nn.Linear(7, 3)), (torch.randn(4, 7),)


def tied_embedding() -> Made:
    def forward(n: Wired, tokens: Tensor) -> Tensor:
        x = n.norm(n.embed(tokens))
        return F.linear(n.mix(x), n.embed.weight)

    tokens = torch.randint(0, 11, (4, 5))
    return Wired(forward, embed=nn.Embedding(11, 6), norm=nn.LayerNorm(6), mix=nn.Linear(6, 6)), (tokens,)


def functional_only() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, n.kernel, n.shift, padding=1))
        x = F.batch_norm(x, None, None, n.gamma, n.beta, training=True)
        x = F.max_pool2d(F.leaky_relu(x), 2).flatten(1)
        return torch.addmm(n.bias, torch.tanh(x @ n.weight), n.out.t())

    shapes = {"kernel": (4, 3, 3, 3), "shift": (4,), "gamma": (4,), "beta": (4,), "weight": (36, 8)}
    parameters = {
        name: nn.Parameter(torch.randn(s)) for name, s in {**shapes, "out": (5, 8), "bias": (5,)}.items()
    }
    return Wired(forward, **parameters), (image(),)


def norm_without_affine() -> Made:
    layers = [
        conv(3, 6),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        conv(6, 6),
        nn.InstanceNorm2d(6),
        nn.Tanh(),
    ]
    return nn.Sequential(*layers, head()), (image(),)


def every_norm() -> Made:
    norms = [
        nn.GroupNorm(2, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.LayerNorm([6, 6, 6]),
        nn.BatchNorm2d(6),
    ]
    layers = [layer for norm in norms for layer in (conv(6, 6), norm, nn.ELU())]
    last = [nn.Flatten(), nn.Linear(216, 8), nn.BatchNorm1d(8), nn.RMSNorm(8), nn.Linear(8, 3)]
    return nn.Sequential(conv(3, 6), *layers, *last), (image(),)


def two_inputs() -> Made:
    def forward(n: Wired, x: Tensor, y: Tensor) -> Tensor:
        return n.last(torch.tanh(n.a(x)) * torch.sigmoid(n.b(y)) - n.c(y))

    parts = {name: nn.Linear(size, 6) for name, size in {"a": 7, "b": 4, "c": 4}.items()}
    return Wired(forward, **parts, last=nn.Linear(6, 3)), (torch.randn(4, 7), torch.randn(4, 4))


def two_outputs() -> Made:
    def forward(n: Wired, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(n.first(x))
        middle = n.middle(hidden)
        return n.last(F.relu(middle)), middle[:, :2]

    return Wired(forward, first=nn.Linear(7, 6), middle=nn.Linear(6, 5), last=nn.Linear(5, 3)), (
        torch.randn(4, 7),
    )


def unknown_operator() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.relu(n.first(x))
        return n.last(torch.cumsum(n.second(x), 1) * torch.linalg.vector_norm(n.scale))

    parts = {"first": nn.Linear(7, 6), "second": nn.Linear(6, 6), "last": nn.Linear(6, 3)}
    return Wired(forward, **parts, scale=nn.Parameter(torch.randn(6))), (torch.randn(4, 7),)


def conv_after_unflatten() -> Made:
    layers = [nn.Linear(7, 18), nn.ReLU(), nn.Unflatten(1, (2, 3, 3)), conv(2, 6), nn.ReLU()]
    return nn.Sequential(*layers, head()), (torch.randn(4, 7),)


def layer_scale() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = n.stem(x) + n.position
        x = x + n.gamma * n.block(n.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return n.head(x * n.temperature)

    parameters = {"position": (1, 6, 6, 6), "gamma": (6, 1, 1), "temperature": (1,)}
    parts = {"stem": conv(3, 6), "norm": nn.LayerNorm(6), "block": conv(6, 6, groups=6), "head": head()}
    return Wired(forward, **parts, **{n: nn.Parameter(torch.randn(s)) for n, s in parameters.items()}), (
        image(),
    )


def padded_and_resampled() -> Made:
    def forward(n: Wired, x: Tensor) -> Tensor:
        x = F.relu(n.a(F.pad(x, (0, 1, 1, 0))))
        x = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")
        return n.head(n.c(F.pad(n.b(F.pad(x, (1, 1, 1, 1), mode="circular")), (1, 1, 1, 1), value=0.5)))

    return Wired(forward, a=conv(3, 4), b=conv(4, 5), c=conv(5, 6), head=head()), (image(),)


def one_dimensional() -> Made:
    layers = [nn.Conv1d(3, 4, 3, padding="same"), nn.PReLU(4), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3)), (torch.randn(4, 3, 8),)


def three_dimensional() -> Made:
    layers = [
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.AvgPool3d(2),
        nn.Conv3d(4, 3, 1),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3)), (torch.randn(4, 2, 4, 4, 4),)


ZOO: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        *(
            mlp,
            residual,
            residual_reversed,
            residual_inplace,
            residual_projection,
            concat,
            grouped,
            depthwise,
        ),
        *(
            transposed,
            channel_shuffle,
            squeeze_and_excite,
            self_attention,
            explicit_attention,
            module_used_twice,
        ),
        *(
            norm_used_twice,
            tied_weights,
            tied_transpose,
            tied_embedding,
            functional_only,
            norm_without_affine,
        ),
        *(every_norm, two_inputs, two_outputs, unknown_operator, conv_after_unflatten, layer_scale),
        *(padded_and_resampled, one_dimensional, three_dimensional),
    )
}

_TABLES: dict[str, Table] = {
    "network": {name: Construct(make) for name, make in ZOO.items()},
    "inplace": INPLACE,
    "view": VIEWS,
    "copy": COPIES,
    "gather": GATHERS,
    "resample": RESAMPLING,
    "activation": ACTIVATIONS,
    "elementwise": ELEMENTWISE,
    "reduce": REDUCTIONS,
    "scan": SCANS,
    "order": ORDERINGS,
    "product": WEIGHTED,
    "attention": ATTENTION,
    "convolution": CONVOLUTIONS,
    "norm": NORMS,
    "recurrent": RECURRENT,
    "embedding": EMBEDDINGS,
    "weight": COMPUTED,
    "normalized_weight": NORMALIZED,
    "tie": TIES,
    "control": CONTROL,
    "output": OUTPUTS,
    "input": INPUTS,
    "size": SIZES,
    "hook": HOOKS,
    "state": STATES,
    "dtype": DTYPES,
    "region": REGIONS,
}

_SINCE = {
    "2.7": "reduce-aminmax tie-module_in_a_list_and_as_attribute tie-module_twice_in_a_list",
    "2.9": "control-vmap embedding-max_norm normalized_weight-spectral_norm "
    "normalized_weight-spectral_norm_old",
    "2.10": "hook-keeps_an_activation state-memory_in_a_mapping",
    "2.12": "reduce-quantile",
    "2.13": "recurrent-lstm_last_states",
}
"""Since which torch these can be traced, and in the case of aminmax differentiated."""

_TOO_NEW = {name for release, names in _SINCE.items() if not torch_is(release) for name in names.split()}

CONSTRUCTS: Table = {
    f"{kind}-{name}": construct
    for kind, table in _TABLES.items()
    for name, construct in table.items()
    if f"{kind}-{name}" not in _TOO_NEW
}
