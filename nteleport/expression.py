"""Formulas in an experiment file: `lambda epoch: 0.95 ** epoch`, without ever running the file's code.

The text is parsed, every part of it is checked against a short list of what a learning-rate formula needs,
and what passes is evaluated by the `simpleeval` library. All arithmetic is in floating point, so no formula
can build a huge integer: 9 ** 9 ** 9 overflows at once with an error.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from simpleeval import InvalidExpression, SimpleEval

from nteleport.errors import ExpressionError, nearest

LONGEST_EXPRESSION = 300
"""In characters: a learning-rate schedule fits, a program does not."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "floor", "ceil")},
    "abs": abs,
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "float": float,
    "pow": lambda base, exponent: _power(base, exponent),
}
CONSTANTS = {"pi": math.pi, "e": math.e}

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: _power(base, exponent),
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_STRUCTURE = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.IfExp, ast.Load)


def compile_lambda(text: str) -> Callable[[float], float]:
    """Turn `lambda epoch: EXPRESSION` into a function.

    The expression may use its argument, numbers, + - * / // % **, comparisons, `and`, `or`, `not`, `A if C
    else B`, the names of `FUNCTIONS` and `CONSTANTS`, and nothing else.

    Returns:
        a plain function of one number. It raises `ExpressionError` where the formula has no finite value.

    Raises:
        ExpressionError: anything other than such a formula, or one without a finite value at 1.
    """
    argument, body = _parse(text)
    try:
        vetted = _Vetting(argument).visit(body)
    except RecursionError as error:
        raise ExpressionError(f"{text!r} is nested too deeply for a formula") from error

    def formula(value: float) -> float:
        evaluator = SimpleEval(_OPERATORS, FUNCTIONS, {**CONSTANTS, argument: float(value)})
        try:
            result = float(evaluator.eval(text, previously_parsed=vetted))
        except (ArithmeticError, ValueError, TypeError, RecursionError, InvalidExpression) as error:
            raise ExpressionError(f"{text!r} has no value at {argument} = {value:g}: {error}") from error
        if not math.isfinite(result):
            raise ExpressionError(f"{text!r} is {result} at {argument} = {value:g}, expected a finite number")
        return result

    formula(1)
    return formula


def _parse(text: str) -> tuple[str, ast.expr]:
    """Split `lambda epoch: EXPRESSION` into the argument's name and the expression."""
    if len(text) > LONGEST_EXPRESSION:
        raise ExpressionError(
            f"a formula of {len(text)} characters, expected at most {LONGEST_EXPRESSION}: {text[:40]!r}…"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not a formula, expected 'lambda epoch: 0.95 ** epoch'") from error
    if not isinstance(tree, ast.Lambda):
        raise ExpressionError(f"{text!r} is not a function, expected 'lambda epoch: 0.95 ** epoch'")
    names = tree.args
    extras = names.posonlyargs or names.kwonlyargs or names.vararg or names.kwarg or names.defaults
    if len(names.args) != 1 or extras:
        raise ExpressionError(f"{text!r}: expected one argument without a default, as in 'lambda epoch: …'")
    return names.args[0].arg, tree.body


class _Vetting(ast.NodeTransformer):
    """Refuses whatever is not on the lists above, and makes every number a float."""

    def __init__(self, argument: str) -> None:
        self.names = (argument, *CONSTANTS)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, (*_STRUCTURE, *_OPERATORS)):
            raise ExpressionError(f"{type(node).__name__} in a formula, expected plain arithmetic")
        return super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise ExpressionError(f"{node.value!r} in a formula, expected numbers only")
        try:
            return ast.Constant(float(node.value))
        except OverflowError as error:
            raise ExpressionError("a number too large for a formula") from error

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.names:
            raise ExpressionError(f"unknown name {node.id!r} in a formula{nearest(node.id, self.names)}")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        raise ExpressionError(f"attribute '.{node.attr}' in a formula: expected cos(x), not math.cos(x)")

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute):
            self.visit(node.func)
        name = ast.unparse(node.func)
        if name not in FUNCTIONS:
            known = f"expected one of {', '.join(FUNCTIONS)}{nearest(name, FUNCTIONS)}"
            raise ExpressionError(f"unknown function {name!r} in a formula, {known}")
        if node.keywords:
            raise ExpressionError(f"keyword arguments of {name} in a formula, expected positional ones")
        return ast.Call(node.func, [self.visit(item) for item in node.args], [])


def _power(base: float, exponent: float) -> float:
    """Powers of floats: a huge one overflows at once, where integers would take forever."""
    power: float | complex = float(base) ** float(exponent)
    if isinstance(power, complex):
        raise ValueError(f"{base:g} ** {exponent:g} is not a real number")
    return power
