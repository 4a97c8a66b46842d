"""In-place operators in an exported graph, and what else they change.

An in-place operator is harmless to rules and rewriting as long as only its own result is read afterwards.
Where another view of the same memory is read too, the graph has to be functionalized first.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from operator import attrgetter
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from nteleport.core.calls import operator_name

_MAY_RETURN_THEIR_INPUT = frozenset(["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
"""They do so in evaluation mode, although their schema does not declare it."""

_READ_SHAPES_ALONE = frozenset(
    """new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like rand_like randn_like
    sym_size""".split()
)

_REGIONS = frozenset(["wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint"])


def region(node: Node) -> tuple[Graph, tuple[Any, ...]] | None:
    """The graph inside a region of ``no_grad``, autocast or checkpointing, and the operands of its
    placeholders; None for other nodes."""
    if operator_name(node) not in _REGIONS:
        return None
    for position, argument in enumerate(node.args):
        if isinstance(argument, Node) and argument.op == "get_attr":
            module = attrgetter(str(argument.target))(node.graph.owning_module)
            if isinstance(module, GraphModule):
                return module.graph, node.args[position + 1 :]
    return None


class Mutations:
    """What the in-place operators of a graph change.

    Attributes:
        changed: nodes without operands (parameters, buffers, inputs) whose memory they write to.
        must_be_functionalized: whether memory that depends on ``inputs`` (of the network, or parameters) is
            written through one view and read through another.
    """

    def __init__(self, graph: Graph, inputs: Collection[Node]) -> None:
        self.changed: set[Node] = set()
        self.must_be_functionalized = False
        self._memory: dict[Node, list[Node]] = {}
        self._depends = set(inputs)
        position = {node: number for number, node in enumerate(graph.nodes)}
        self._last_read = {
            node: max((position[user] for user in node.users), default=-1) for node in graph.nodes
        }
        for node, number in position.items():
            self._visit(node, number)

    def _visit(self, node: Node, number: int) -> None:
        depends = any(operand in self._depends for operand in node.all_input_nodes)
        if depends and operator_name(node) not in _READ_SHAPES_ALONE:
            self._depends.add(node)
        if node.op != "call_function":
            self._memory.setdefault(node, [node])
            return
        inner = region(node)
        if inner is not None:
            self._visit_region(*inner)
        written, shared = _aliases(node)
        for target in written:
            self._write(node, target, number)
        memory = [node]
        for operand in shared:
            if operator_name(node) == "getitem" and self._memory.get(operand) == [operand]:
                continue  # one of several results, each in memory of its own
            memory = self._joined(memory, self._memory.get(operand, [operand]))
        self._memory[node] = memory

    def _write(self, node: Node, target: Node, number: int) -> None:
        memory = self._memory.get(target, [target])
        memory[:] = [n for n in memory if n.op != "call_function" or self._last_read[n] >= number]
        self.changed.update(n for n in memory if n.op != "call_function")
        if node in self._depends or any(n in self._depends for n in memory):
            self._depends.update(memory)
            self.must_be_functionalized |= any(self._last_read[n] > number for n in memory)

    def _joined(self, memory: list[Node], other: list[Node]) -> list[Node]:
        if memory is other:
            return memory
        other.extend(memory)
        for node in memory:
            self._memory[node] = other
        return other

    def _visit_region(self, graph: Graph, operands: tuple[Any, ...]) -> None:
        placeholders = graph.find_nodes(op="placeholder")
        inside = Mutations(graph, placeholders)
        self.must_be_functionalized |= inside.must_be_functionalized or bool(inside.changed)


def _aliases(node: Node) -> tuple[list[Node], list[Node]]:
    """The operands that ``node`` writes to, and those whose memory its result shares."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        shared = [n for n in node.args[:1] if isinstance(n, Node)]
        return [], shared if operator_name(node) == "getitem" else []
    if operator_name(node) in _MAY_RETURN_THEIR_INPUT:
        return [], [n for n in node.args[:1] if isinstance(n, Node)]
    written, shared = [], []
    for position, name, writes, shares in _alias_table(target):
        value = node.args[position] if position < len(node.args) else node.kwargs.get(name)
        found = value if isinstance(value, (list, tuple)) else [value]
        nodes = [n for n in found if isinstance(n, Node)]
        written += nodes if writes else []
        shared += nodes if shares else []
    return written, shared


@cache
def _alias_table(operator: torch._ops.OpOverload) -> list[tuple[int, str, bool, bool]]:
    schema = operator._schema
    returned: set[str] = set()
    for result in schema.returns:
        if result.alias_info is not None:
            returned |= set(result.alias_info.before_set) | set(result.alias_info.after_set)
    rows = []
    for position, argument in enumerate(schema.arguments):
        info = argument.alias_info
        if info is not None:
            names = set(info.before_set) | set(info.after_set)
            rows.append((position, argument.name, bool(info.is_write), bool(names & returned)))
    return rows
