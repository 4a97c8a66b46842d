"""What the pages in docs show is true: their commands exist, with their options and files."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest
from support import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


def shown_commands(page: Path) -> list[tuple[str, str]]:
    """The name and the arguments of each command of ours in the shell blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    command = re.compile(r"(?<![\w/])nteleport (\w+) ([^\n'#:]*)")
    return [found for block in blocks for found in command.findall(block)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist_with_their_options_and_files(page: Path) -> None:
    for name, arguments in shown_commands(page):
        command = getattr(importlib.import_module(f"nteleport.cli.{name}"), name)
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), arguments.split()[0])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in arguments.split() if word.startswith("--")} <= known
        for word in arguments.split():
            assert not word.endswith(".yml") or "*" in word or (ROOT / word).is_file()


@pytest.mark.parametrize("page", ["slurm.md", "tracking.md"])
def test_the_pages_on_many_jobs_show_commands(page: str) -> None:
    assert shown_commands(ROOT / "docs" / page) != []
