"""Formulas of an experiment file: right values, and nothing but arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nteleport.errors import ExpressionError
from nteleport.expression import LONGEST_EXPRESSION, compile_lambda


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lambda epoch: 0.95 ** epoch", 0.95**7),
        ("lambda e: 1 if e < 5 else 0.1", 0.1),
        ("lambda epoch: 0.5 * (1 + cos(pi * epoch / 10))", 0.5 * (1 + math.cos(math.pi * 0.7))),
        ("lambda epoch: 0.1 ** (epoch // 3)", 0.01),
        ("lambda epoch: min(1, (epoch + 1) / 10) * exp(-epoch)", 0.8 * math.exp(-7)),
        ("lambda epoch: -epoch % 4", 1.0),
        ("lambda epoch: (epoch >= 7 and not epoch > 7) * 3", 3.0),
        ("lambda epoch: pow(2, epoch)", 128.0),
        ("  lambda epoch: 2\n", 2.0),
    ],
)
def test_a_formula_has_the_value_python_gives_it(text: str, value: float) -> None:
    assert compile_lambda(text)(7) == pytest.approx(value, rel=1e-15)


def test_a_formula_is_a_plain_function() -> None:
    # torch leaves plain functions out of a scheduler's state, so that checkpoints hold data only
    assert type(compile_lambda("lambda epoch: 1")) is type(lambda: None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lambda epoch: __import__('os').system('true')", "attribute '.system'"),
        ("lambda epoch: __import__('os')", "unknown function '__import__'"),
        ("lambda epoch: open('/etc/passwd')", "unknown function 'open'"),
        ("lambda epoch: eval('1')", "unknown function 'eval'"),
        ("lambda epoch: (lambda: 1)()", "unknown function 'lambda: 1'"),
        ("lambda epoch: epoch.__class__", "attribute '.__class__'"),
        ("lambda epoch: ().__class__.__bases__[0].__subclasses__()", "attribute '.__subclasses__'"),
        ("lambda epoch: math.cos(epoch)", "expected cos(x), not math.cos(x)"),
        ("lambda epoch: [x for x in (1, 2)]", "ListComp"),
        ("lambda epoch: max(x for x in (1, 2))", "GeneratorExp"),
        ("lambda epoch: (y := 1)", "NamedExpr"),
        ("lambda epoch: epoch[0]", "Subscript"),
        ("lambda epoch: f'{epoch}'", "JoinedStr"),
        ("lambda epoch: 1 << 9", "LShift"),
        ("lambda epoch: 'a' * 9", "'a' in a formula, expected numbers"),
        ("lambda epoch: True", "True in a formula, expected numbers"),
        ("lambda epoch: min(*epoch)", "Starred"),
        ("lambda epoch: max(epoch, key=abs)", "keyword arguments"),
        ("lambda epoch: epoc", "unknown name 'epoc' in a formula, did you mean 'epoch'?"),
        ("lambda epoch: coz(epoch)", "did you mean 'cos'?"),
    ],
)
def test_whatever_is_not_arithmetic_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        compile_lambda(text)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "lambda epoch: 9 ** 9 ** 9 ** 9",
        "lambda epoch: 999999 ** 999999",
        "lambda epoch: pow(10, 10 ** 10)",
        "lambda epoch: exp(exp(exp(9)))",
        "lambda epoch: int(1e300) ** 9",
        "lambda epoch: 1" + "0" * (LONGEST_EXPRESSION - 20) + " ** 9",
    ],
)
def test_a_huge_power_overflows_at_once(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"has no value|too large|is inf"):
        compile_lambda(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.95 ** epoch", "is not a function"),
        ("import os", "is not a formula"),
        ("lambda epoch: \0", "is not a formula"),
        ("", "is not a formula"),
        ("lambda: 1", "expected one argument"),
        ("lambda epoch, step: 1", "expected one argument"),
        ("lambda epoch=0: epoch", "expected one argument"),
        ("lambda *epoch: 1", "expected one argument"),
        ("lambda epoch: " + "1 + " * LONGEST_EXPRESSION + "1", f"expected at most {LONGEST_EXPRESSION}"),
    ],
)
def test_what_is_no_function_of_one_number_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ExpressionError) as refusal:
        compile_lambda(text)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "value"),
    [("(" * 120 + "epoch" + ")" * 120, 7), ("-" * 281 + "epoch", -7), ("1 + " * 60 + "epoch", 67)],
)
def test_a_formula_may_nest_as_deep_as_its_length_allows(body: str, value: float) -> None:
    assert compile_lambda(f"lambda epoch: {body}")(7) == value


@pytest.mark.parametrize("text", ["lambda epoch: 1 / (epoch - 1)", "lambda epoch: log(1 - epoch)"])
def test_a_formula_without_a_value_at_1_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="has no value at epoch = 1"):
        compile_lambda(text)


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("lambda epoch: 1 / (epoch - 3)", 3),
        ("lambda epoch: (2 - epoch) ** 0.5", 3),
        ("lambda e: 10 ** e", 400),
    ],
)
def test_a_formula_without_a_value_later_says_where(text: str, argument: Any) -> None:
    function = compile_lambda(text)
    with pytest.raises(ExpressionError, match=f"at e[a-z]* = {argument}"):
        function(argument)
