"""A small vision transformer for small images; torchvision's own builders fix patch, depth and width."""

from __future__ import annotations

from torch import nn

from nteleport.errors import ModelError

__all__ = ["vit"]


def vit(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    patch_size: int = 4,
    num_layers: int = 6,
    num_heads: int = 4,
    hidden_dim: int = 128,
    mlp_dim: int = 256,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.Module:
    """torchvision's ``VisionTransformer``, by default of 0.8 million parameters for 32×32 images.

    Args:
        input_shape: (channels, height, width) of an image, made for three channels; see ``stems`` for others.
        num_classes: size of the output.
        patch_size: height and width of a patch, in pixels.
        num_layers, num_heads: blocks, and heads of the attention in each.
        hidden_dim: width of a token.
        mlp_dim: hidden size of the multilayer perceptron in a block.
        dropout, attention_dropout: probabilities.

    Raises:
        ModelError: an image that is no square of whole patches, or a size that is not a positive whole number
            that fits the others.
    """
    from torchvision.models.vision_transformer import VisionTransformer  # a second, and an MLP needs none

    _, height, width = input_shape
    sizes = {
        "patch_size": patch_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "mlp_dim": mlp_dim,
    }
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ModelError(f"model 'vit': {name} is {size!r}, expected a whole number of at least 1")
    if height != width or height % patch_size:
        raise ModelError(
            f"model 'vit' cannot take images of {height}×{width}, it needs squares whose side is a multiple "
            f"of patch_size {patch_size}"
        )
    if hidden_dim % num_heads:
        raise ModelError(f"model 'vit': hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
    network: nn.Module = VisionTransformer(
        image_size=height,
        num_classes=num_classes,
        dropout=dropout,
        attention_dropout=attention_dropout,
        **sizes,
    )
    return network
