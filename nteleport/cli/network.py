"""The options that say which network a command is about, for all commands that take one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from nteleport.cli.options import list_option, plugin_option
from nteleport.data.catalog import DATASETS, DataSource, dataset_info
from nteleport.plugins import check_reference, is_reference
from nteleport.schema.yaml_source import Mark, Problems, parse_yaml
from nteleport.vocabulary import MODEL_NAMES, NORMS, canonical_name

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NameType", "NetworkChoice", "model_type", "network_choice", "network_options", "norms_option"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_DATASET = "cifar10"
_IMAGENET_CLASSES = 1000


class NameType(click.ParamType):  # type: ignore[type-arg]  # subscriptable only since click 8.4
    """A name that the shell can complete; the command itself checks it, with the message of the library."""

    def __init__(self, name: str, choices: Iterable[str]) -> None:
        self.name = name
        self.choices = tuple(choices)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete.lower())]


#: The name of a network, or ``FILE.py:CLASS``.
model_type = NameType("model", MODEL_NAMES)


@dataclass(frozen=True)
class NetworkChoice:
    """A network by name or from a file, the size of its inputs and the number of its classes.

    Attributes:
        source: a data set of the user's, which gives both.
    """

    model: str
    arguments: dict[str, Any]
    input_shape: tuple[int, ...]
    num_classes: int
    source: DataSource | None = None

    def build(self) -> nn.Module:
        """The network with random weights; the file of a network is run here."""
        from nteleport.networks.chosen import chosen_network

        shape, classes = self.input_shape, self.num_classes
        if self.source is not None:
            from nteleport.data.loaded import described

            info = described(self.source)
            shape, classes = info.input_shape, info.num_classes
        return chosen_network(self.model, self.arguments, input_shape=shape, num_classes=classes)

    def inputs(self, *purpose: str | int) -> Tensor:
        """Two inputs: random ones, drawn for a purpose, or the first of a data set of the user's."""
        from nteleport.networks.chosen import random_inputs
        from nteleport.randomness import generator_for

        if self.source is None:
            return random_inputs(self.input_shape, generator_for(*purpose))
        from nteleport.data.loaded import load_source

        train = load_source(self.source).train
        return train.normalized(train.images[:2])


def network_options(dataset_use: str) -> Callable[[_Decorated], _Decorated]:
    """Add the options, which `network_choice` takes, and `--plugin`, which acts by itself.

    Args:
        dataset_use: what else the command does with the data set, for the help of ``--dataset``.
    """
    options = [
        click.option(
            "--model-args", "model_args", metavar="KEY=VALUE", multiple=True,
            help="An argument of the model, its value as in YAML; repeatable.",
        ),
        click.option(
            "--dataset", type=NameType("name", DATASETS),
            help="The data set that gives the size of the input and the number of classes; "
            f"{dataset_use}. Or MODULE:FUNCTION of a plugin, which is called.  [default: {_DATASET}]",
        ),
        list_option(
            "--input-shape", metavar="SIZES", item_type=click.IntRange(min=1),
            help="The size of one input instead, such as 3,224,224; classes are then 1000, as in ImageNet, "
            "unless --model-args num_classes=N says otherwise.",
        ),
        click.option(
            "--image-size", type=click.IntRange(min=1), metavar="PIXELS",
            help="Height and width of the images, if the model needs a different size than that of the data "
            "set.",
        ),
        plugin_option,
    ]  # fmt: skip

    def add(command: _Decorated) -> _Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return add


norms_option = click.option(
    "--norms", type=click.Choice(NORMS), default=NORMS[0], show_default=True,
    help="Leave the inputs of normalizations as they are, or move them too, and running statistics with "
    "them, which changes outputs by the order of eps / variance.",
)  # fmt: skip


def network_choice(
    model: str,
    model_args: tuple[str, ...],
    dataset: str | None,
    input_shape: tuple[int, ...],
    image_size: int | None,
) -> NetworkChoice:
    """What the options say, checked as far as no network is needed.

    Raises:
        click.UsageError: options that contradict each other, or an argument without a value.
        UnknownNameError: no model or data set has this name.
    """
    if input_shape and (dataset or image_size):
        raise click.UsageError("--input-shape replaces --dataset and --image-size: give one or the other")
    source = None
    if dataset is not None and is_reference(dataset):
        source = DataSource(dataset, check_reference(dataset))
    if source is not None and image_size:
        raise click.UsageError(f"--image-size with the data set {dataset}: give one or the other")
    info = dataset_info(dataset if dataset and source is None else _DATASET)
    channels, height, width = info.input_shape
    return NetworkChoice(
        _model_name(model),
        dict(map(_argument, model_args)),
        input_shape or (channels, image_size or height, image_size or width),
        _IMAGENET_CLASSES if input_shape else info.num_classes,
        source,
    )


def _model_name(model: str) -> str:
    if ".py" in model:
        return model
    return check_reference(model, libraries=True) if is_reference(model) else canonical_name(model)


def _argument(text: str) -> tuple[str, Any]:
    """``key=value`` with its value read as YAML."""
    key, equals, value = text.partition("=")
    problems = Problems()
    node = parse_yaml(value, Mark("--model-args"), problems)
    if not equals or not key.isidentifier() or problems:
        raise click.BadParameter(f"{text!r}: expected key=value, such as depth=20", param_hint="--model-args")
    return key, None if node is None else node.plain()
