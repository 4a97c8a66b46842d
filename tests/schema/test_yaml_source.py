"""YAML with places: what values mean, where they stand, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nteleport.schema.yaml_source import Mark, Node, Problems, parse_yaml, to_yaml


def read(text: str) -> tuple[Any, list[str]]:
    """The plain content, and the problems as text."""
    problems = Problems()
    node = parse_yaml(text, Mark("f.yml"), problems)
    return (node.plain() if node else None), [str(problem) for problem in problems]


def well(text: str) -> Node:
    problems = Problems()
    node = parse_yaml(text, Mark("f.yml"), problems)
    assert problems == []
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("+7", 7),
        ("010", 10),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("True", True),
        ("no", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'lambda epoch: 1'", "lambda epoch: 1"),
    ],
)
def test_a_scalar_means_what_a_scientist_expects(written: str, meant: object) -> None:
    value = well(f"a: {written}").plain()["a"]
    assert (value, type(value)) == (meant, type(meant))


def test_every_value_and_key_knows_its_place() -> None:
    root = well("first: 1\nsecond:\n  - {third: x}\n")
    assert isinstance(root.value, dict)
    second = root.value["second"]
    assert (second.key_mark, second.mark) == (Mark("f.yml", 2, 1), Mark("f.yml", 3, 3))
    assert isinstance(second.value, list)
    assert isinstance(second.value[0].value, dict)
    third = second.value[0].value["third"]
    assert (third.key_mark, third.mark) == (Mark("f.yml", 3, 6), Mark("f.yml", 3, 13))


def test_keys_are_text_whatever_they_look_like() -> None:
    assert well("{no: 1, 1: 2, null: 3}").plain() == {"no": 1, "1": 2, "null": 3}


def test_anchors_aliases_and_merge_keys_read_as_in_yaml() -> None:
    text = "base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\nthree: {y: 4, <<: [{x: 5}, *b]}\n"
    assert well(text).plain() == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "f.yml:3:1: duplicate key 'a', first given on line 1"),
        ("x: {lr: 1, lr: 2}", "f.yml:1:12: duplicate key 'lr'"),
        ("a: !!str 3", "f.yml:1:4: YAML tag '!!str': tags are not allowed"),
        ("a: !python/object:os.system x", "f.yml:1:4: YAML tag '!python/object:os.system'"),
        ("[a]: 3", "f.yml:1:1: a list or mapping as a key, expected a name"),
        ("a: {<<: 3}", "f.yml:1:9: `<<` merges mappings"),
        ("a: *nowhere", "f.yml:1:4: not valid YAML: found undefined alias"),
        ("a: b: c", "f.yml:1:5: not valid YAML: mapping values are not allowed"),
        ("a: 1\n---\nb: 2", "f.yml:2:1: not valid YAML: but found another document"),
        ("a: [1", "f.yml:1:5: not valid YAML"),
        ("\x01", "f.yml:1:1: not valid YAML: unacceptable character"),
        ("a: &a [*a]", "an alias inside its own anchor"),
        ("a: &a {<<: *a}", "an alias inside its own anchor"),
        ("[" * 150, "f.yml:1:31: nested deeper than 30 levels"),
        pytest.param("[" * 100_000, "nest", id="deeper than PyYAML itself allows since 6.0.4"),
    ],
)
def test_what_is_refused_is_reported_with_its_place(text: str, problem: str) -> None:
    _, problems = read(text)
    assert len(problems) == 1
    assert problem in problems[0]


@pytest.mark.parametrize("level", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_multiply_end_early(level: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for depth in range(1, 12):
        lines.append(f"a{depth}: &a{depth} " + level.format(", ".join([f"*a{depth - 1}"] * 9)))
    _, problems = read("\n".join(lines))
    assert len(problems) == 1
    assert "too many" in problems[0]


def test_all_problems_are_found_at_once() -> None:
    _, problems = read("a: !x 1\nb: {c: 1, c: 2}\nd: !y 2\n")
    assert sorted(problem.split(": ")[0] for problem in problems) == ["f.yml:1:4", "f.yml:2:11", "f.yml:3:4"]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
    | st.sampled_from(
        ["1e-3", "1:30", "yes", "", "~", "010", "-.5", ".inf", "<<", "lambda epoch: 1", "{", "- a", "x\ny"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_written_reads_back_equal(value: object) -> None:
    assert well(to_yaml({"value": value})).plain() == {"value": value}
