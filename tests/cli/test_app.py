"""The command line as a whole: what it prints, how it ends, and what it never imports."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nteleport import __version__
from nteleport.cli.app import COMMANDS, nteleport
from nteleport.errors import NTeleportError

HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "numpy")


def run(*arguments: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of the command line."""
    result = CliRunner().invoke(nteleport, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def imported_by(*arguments: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after running the command line."""
    program = (
        "import sys\n"
        "from nteleport.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as ending:\n    assert ending.code == 0, ending.code\n"
        f"print('imported:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(output.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(flag: str) -> None:
    code, out, _ = run(flag)
    assert code == 0
    listed = re.findall(r"^  ([a-z]+)  ", out.split("Commands:")[1], flags=re.MULTILINE)
    assert listed == list(COMMANDS)


def test_version_is_that_of_the_package() -> None:
    assert run("--version") == (0, f"nteleport, version {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_line_of_help_is_that_of_the_command_itself(name: str) -> None:
    command = getattr(importlib.import_module(f"nteleport.cli.{name}"), name)
    assert COMMANDS[name] == command.get_short_help_str(limit=200)


def test_mistyped_command_gets_the_nearest_one() -> None:
    code, out, err = run("trian")
    assert (code, out) == (2, "")
    assert "no such command 'trian', did you mean 'train'?" in err


def test_unknown_command_gets_the_list() -> None:
    code, _, err = run("xyzzy")
    assert code == 2
    assert f"expected one of {', '.join(COMMANDS)}" in err


def test_an_error_of_the_library_is_a_message_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NTeleportError("the value is 3, expected 2")

    monkeypatch.setattr(nteleport, "get_command", lambda ctx, name: click.Command(name, callback=refuse))
    assert run("train") == (2, "", "Error: the value is 3, expected 2\n")


def test_a_keyboard_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nteleport, "get_command", lambda ctx, name: click.Command(name, callback=interrupt))
    code, _, err = run("train")
    assert code == 130
    assert err.strip() == "interrupted"


def test_a_keyboard_interrupt_while_the_command_line_is_imported_has_no_traceback() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'nteleport.errors':\n            raise KeyboardInterrupt\n"
        "from nteleport.cli import main\n"
        "sys.modules.pop('nteleport.errors', None)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "main(['--help'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CONFIG", "--out", ""],
        ["submit", "CONFIG", "--out", ""],
        ["unravel", "CONFIG", "--out", ""],
        ["plot", ""],
        ["collect", ""],
        ["status", ""],
        ["reproduce", "4", "--out", ""],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_path_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "CONFIG").write_text("{datasets: digits, models: mlp, optimizers: SGD}")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert "an empty path, expected a name" in err
    assert os.listdir(tmp_path) == ["CONFIG"]


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(nteleport, "get_command", lambda ctx, name: click.Command(name, callback=fail))
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(nteleport, ["train"], catch_exceptions=False)


def test_a_closed_pipe_is_quiet() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-m", "nteleport", "completion", "fish"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert process.stderr == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert f"_NTELEPORT_COMPLETE={shell}_complete" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        ([""], set(COMMANDS)),
        (["completion", "z"], {"zsh"}),
        (["inspect", "resnet1"], {"resnet18", "resnet101", "resnet152"}),
        (["inspect", "mlp", "--dataset", "cifar"], {"cifar10", "cifar100"}),
        (["unravel", "--per"], {"--per-run"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    """Real bash, the printed script, and the answer that pressing Tab would show."""
    (tmp_path / "nteleport").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nteleport "$@"\n')
    (tmp_path / "nteleport").chmod(0o755)
    typed = " ".join(f"'{word}'" for word in ["nteleport", *words])
    press_tab = (
        f'PATH="{tmp_path}:$PATH"\n eval "$(nteleport completion bash)"\n'
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}\n"
        '_nteleport_completion nteleport\n printf "%s\\n" "${COMPREPLY[@]}"'
    )
    shell = subprocess.run(["bash", "--norc", "-c", press_tab], capture_output=True, text=True, check=True)
    assert set(shell.stdout.split()) == expected
