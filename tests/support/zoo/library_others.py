"""Networks for segmentation, video and graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Maker = Callable[[], tuple[nn.Module, Any]]


def segmentation(name: str) -> tuple[nn.Module, Any]:
    import segmentation_models_pytorch as smp

    network = getattr(smp, name)(encoder_name="resnet18", encoder_weights=None, in_channels=3, classes=4)
    size = 128 if name == "PAN" else 64
    return network, torch.randn(2, 3, size, size)


def torchvision_model(part: str, name: str, shape: tuple[int, ...]) -> tuple[nn.Module, Any]:
    import torchvision

    options = {"weights_backbone": None} if part == "segmentation" else {}
    network = getattr(getattr(torchvision.models, part), name)(weights=None, num_classes=4, **options)
    return network, torch.randn(shape)


class GraphNetwork(nn.Module):
    """Two graph layers and a linear one."""

    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.last = layer(6, 8), layer(8, 8), nn.Linear(8, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        found: Tensor = self.last(self.second(self.first(nodes, edges).relu(), edges).relu())
        return found


def graph(name: str, **options: Any) -> tuple[nn.Module, Any]:
    import torch_geometric.nn as graphs

    def layer(inputs: int, outputs: int) -> nn.Module:
        if name == "GINConv":
            return graphs.GINConv(
                nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))
            )
        found: nn.Module = getattr(graphs, name)(inputs, outputs, **options)
        return found

    edges = torch.tensor([[0, 1, 1, 2, 3, 4, 0, 2], [1, 0, 2, 1, 4, 3, 4, 4]])
    return GraphNetwork(layer), (torch.randn(5, 6), edges)


def detection(name: str) -> tuple[nn.Module, Any]:
    import torchvision

    made = getattr(torchvision.models.detection, name)
    network = made(weights=None, weights_backbone=None, num_classes=4)
    return network, ([torch.randn(3, 64, 64)],)


OTHERS: dict[str, Maker] = {
    "torchvision.ssdlite320_mobilenet_v3_large": partial(detection, "ssdlite320_mobilenet_v3_large"),
    **{
        f"smp.{name}": partial(segmentation, name)
        for name in (
            "DeepLabV3Plus",
            "FPN",
            "Linknet",
            "MAnet",
            "PAN",
            "PSPNet",
            "Segformer",
            "UPerNet",
            "Unet",
        )
    },
    "smp.UnetPlusPlus": partial(segmentation, "UnetPlusPlus"),
    **{
        f"torchvision.{name}": partial(torchvision_model, "segmentation", name, (2, 3, 64, 64))
        for name in ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")
    },
    **{
        f"torchvision.{name}": partial(torchvision_model, "video", name, (2, 3, 4, 32, 32))
        for name in ("r3d_18", "mc3_18")
    },
    "torchvision.swin3d_t": partial(torchvision_model, "video", "swin3d_t", (1, 3, 4, 64, 64)),
    **{
        f"torch_geometric.{name}": partial(graph, name, **options)
        for name, options in {
            "ARMAConv": {},
            "ChebConv": {"K": 2},
            "GATConv": {"heads": 1},
            "GATv2Conv": {"heads": 1},
            "GCNConv": {},
            "GINConv": {},
            "GraphConv": {},
            "SAGEConv": {},
            "SGConv": {},
            "SSGConv": {"alpha": 0.1},
            "TAGConv": {},
            "TransformerConv": {},
        }.items()
    },
}
