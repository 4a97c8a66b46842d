"""`nteleport plot`: how options are given, what is printed where, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.synthetic_results import make_job, matrix, write_job, write_jobs

from nteleport.cli.options import AliasedOption, CommaList, Command, list_option
from nteleport.cli.plot import plot


def run(*arguments: object) -> Result:
    return CliRunner().invoke(plot, [str(argument) for argument in arguments])


def drawn(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_jobs(tmp_path, matrix(runs=2, epochs=4))
    return tmp_path


def test_pictures_and_tables_are_printed_one_a_line(out: Path) -> None:
    result = run(out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        str(out / "plots" / f"digits-mlp-{metric}-curves.{suffix}")
        for metric in ("val_accuracy", "train_loss")
        for suffix in ("png", "csv")
    ]


def test_the_folder_may_be_an_option(out: Path) -> None:
    assert run("--experiment_dir", out).stdout == run(out).stdout


def test_lists_are_comma_separated_or_repeated_or_both(out: Path) -> None:
    spellings = [
        ["--metrics", "val_accuracy,train_loss,lr"],
        ["--metrics", "val_accuracy", "--metrics", "train_loss", "--metrics", "lr"],
        ["--metrics", " val_accuracy , train_loss,", "--metrics=lr"],
    ]
    results = [run(out, *spelling) for spelling in spellings]
    assert [result.exit_code for result in results] == [0, 0, 0]
    assert results[0].stdout == results[1].stdout == results[2].stdout
    assert "digits-mlp-lr-curves.png" in results[0].stdout


def test_the_published_command_works_word_for_word(out: Path) -> None:
    result = run(
        "--experiment_dir", out, "--group_by", "teleport", "optimizer", "--boxplot", "--box_epochs", 0, 1, 3,
        "--metrics", "val_accuracy", "val_loss", "--out_dir", out / "published",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    assert run(
        out, "--group-by", "teleport,optimizer", "--box-epochs=0,1,3", "--metrics=val_accuracy,val_loss",
        "--out-dir", out / "commas",
    ).exit_code == 0  # fmt: skip
    assert len(drawn(out / "published")) == 8
    for name in drawn(out / "published"):
        assert (out / "published" / name).read_bytes() == (out / "commas" / name).read_bytes(), name


@pytest.mark.parametrize(
    "arguments",
    [
        ["{out}", "--metrics", "lr", "val_loss"],
        ["--metrics", "lr", "val_loss", "{out}"],
        ["--metrics", "lr", "val_loss", "{out}", "--format", "png"],
        ["--metrics", "lr,val_loss", "{out}"],
        ["--metrics=lr,val_loss", "{out}"],
        ["--metrics", "lr", "val_loss", "--", "{out}"],
        ["--format", "png", "{out}", "--metrics", "lr", "--metrics", "val_loss"],
    ],
)
def test_the_folder_may_stand_anywhere(out: Path, arguments: list[str]) -> None:
    result = run(*(word.format(out=out) for word in arguments))
    assert (result.exit_code, result.stderr) == (0, "")
    assert [Path(line).name for line in result.stdout.splitlines()] == [
        f"digits-mlp-{metric}-curves.{suffix}" for metric in ("lr", "val_loss") for suffix in ("png", "csv")
    ]


def test_a_folder_named_like_a_hyper_parameter_is_no_folder_of_results_where_one_is_given(
    out: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "optimizer").mkdir()
    monkeypatch.chdir(elsewhere)
    for folder in ([out], ["--experiment_dir", out]):
        result = run(*folder, "--metrics", "lr", "--group_by", "teleport", "optimizer")
        assert (result.exit_code, result.stderr) == (0, "")


def test_options_may_be_spelled_with_underscores(out: Path) -> None:
    result = run(
        out, "--group_by", "teleport", "--boxplot", "--box_epochs", "0,3", "--out_dir", out / "a",
        "--format", "svg", "--metrics", "val_accuracy",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert drawn(out / "a") == [
        f"digits-mlp-val_accuracy-{kind}.{suffix}"
        for kind in ("boxes", "curves")
        for suffix in ("csv", "svg")
    ]


def test_naming_box_epochs_asks_for_boxes(out: Path) -> None:
    run(out, "--box-epochs", "1", "--metrics", "val_accuracy")
    assert "digits-mlp-val_accuracy-boxes.png" in drawn(out / "plots")


def test_a_legend_is_placed_as_in_the_published_command(out: Path) -> None:
    default = run(out, "--out_dir", out / "a")
    placed = run(out, "--legend_pos", "lower right", "--band", "minmax", "--out_dir", out / "b")
    assert (placed.exit_code, placed.stderr) == (0, "")
    assert len(placed.stdout.splitlines()) == len(default.stdout.splitlines()) == 4
    for name in drawn(out / "a"):
        assert (out / "a" / name).read_bytes() != (out / "b" / name).read_bytes()


def test_no_boxes_unless_asked(out: Path) -> None:
    run(out)
    assert not [name for name in drawn(out / "plots") if "boxes" in name]


def test_warnings_go_to_stderr_and_the_picture_is_drawn(out: Path) -> None:
    write_job(out, make_job(epochs=4, run=2), state=None, epochs=1)
    result = run(out, "--metrics", "val_accuracy")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: MLP on digits: 'no teleport' has 2 of 3 runs finished: run 2 unfinished after 1 epoch",
        "warning: MLP on digits: 'teleported' has 2 of 3 runs finished: 1 missing (run 2)",
    ]
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "val_acc"], "unknown metric 'val_acc', did you mean 'val_accuracy'?"),
        (
            ["--group-by", "optimizer.lrr"],
            "unknown hyper-parameter 'optimizer.lrr', did you mean 'optimizer.lr'?",
        ),
        (["--box-epochs", "4"], "no epoch 4 for a box plot: the results have epochs 0 to 3"),
        (["--box-epochs", "soon"], "'soon' is not a valid integer"),
        (["--box-epochs", "-1"], "-1 is not in the range"),
        (["--metrics", ","], "expected one or more values"),
        (["--format", "gif"], "'gif' is not one of 'png', 'pdf', 'svg'"),
        (["--band", "minimax"], "'minimax' is not one of 'std', 'minmax', 'none'"),
        (
            ["--legend_pos", "uper left"],
            "unknown place of the legend 'uper left', did you mean 'upper left'?",
        ),
        (["--experiment-dir", "elsewhere"], "two folders of results"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(out: Path, arguments: list[str], message: str) -> None:
    result = run(out, *arguments)
    assert result.exit_code == 2
    assert message.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (out / "plots").exists()


def test_a_folder_without_results_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: no jobs in {tmp_path}")


def test_no_folder_is_one_message_and_exit_code_2() -> None:
    result = run()
    assert result.exit_code == 2
    assert "missing DIR" in result.stderr


def test_the_help_names_each_option_once() -> None:
    text = run("--help").stdout
    for option in ("--metrics", "--group-by", "--boxplot", "--box-epochs", "--out-dir", "--format"):
        assert sum(line.startswith(f"  {option} ") for line in text.splitlines()) == 1
    assert "--output-dir" not in text


def test_plotting_imports_no_torch(out: Path) -> None:
    program = (
        "import sys; from nteleport.cli.plot import plot; plot([sys.argv[1]], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(out)], check=False).returncode == 0


def test_the_command_alone_imports_neither_pandas_nor_matplotlib() -> None:
    program = (
        "import sys; import nteleport.cli.plot; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'matplotlib', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- options that all commands share


@pytest.mark.parametrize(
    ("text", "expected"), [("1", (1,)), ("1,2", (1, 2)), (" 1 , 2 ,", (1, 2)), (("3", 4), (3, 4))]
)
def test_a_comma_list_converts_its_items(text: str | tuple[object, ...], expected: tuple[int, ...]) -> None:
    assert CommaList(int).convert(text, None, None) == expected


@pytest.fixture
def command() -> click.Command:
    @click.command(cls=Command)
    @list_option("--words", aliases=("--old-words",))
    @click.option("--out", cls=AliasedOption, aliases=("--out-root-dir",))
    def show(words: tuple[str, ...], out: str | None) -> None:
        """Echo the options."""
        click.echo(f"{words} {out}")

    return show


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "() None"),
        (["--words", "a,b", "--words", "c"], "('a', 'b', 'c') None"),
        (["--old_words", "a", "--out_root_dir", "x_y"], "('a',) x_y"),
        (["--words", "a", "b,c", "--out", "x", "--old_words", "d", "e"], "('a', 'b', 'c', 'd', 'e') x"),
        (["--words", "a,", "b/c", "--out", "-x"], "('a', 'b/c') -x"),
        (["--words=a", "--words", "-b"], "('a', '-b') None"),
        (["--out-root-dir=x"], "() x"),
    ],
)
def test_aliases_and_underscores(command: click.Command, arguments: list[str], expected: str) -> None:
    assert CliRunner().invoke(command, arguments).stdout.strip() == expected


def test_aliases_are_not_in_the_help(command: click.Command) -> None:
    text = CliRunner().invoke(command, ["--help"]).stdout
    assert "--out " in text
    assert "root" not in text
    assert "old" not in text
