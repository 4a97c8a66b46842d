"""`nteleport report`: what is written where, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.synthetic_results import matrix, write_jobs

from nteleport.cli.report import report

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(report, [str(argument) for argument in arguments])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_jobs(tmp_path / "out", matrix(runs=2, epochs=2))
    return tmp_path / "out"


def test_the_page_is_written_into_the_folder_or_a_file(out: Path, tmp_path: Path) -> None:
    assert run(out).stdout.startswith(f"{out / 'report.html'}: ")
    assert run(out, "-o", tmp_path / "x.html").exit_code == 0
    assert (tmp_path / "x.html").read_text() == (out / "report.html").read_text()
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["report.html"]


def test_markdown_goes_to_standard_output_or_a_file(out: Path, tmp_path: Path) -> None:
    assert run(out, "--md").stdout.startswith("# out\n\n4 jobs: 4 finished\n")
    assert run(out, "-o", tmp_path / "x.md").exit_code == 0
    assert (tmp_path / "x.md").read_text() == run(out, "--md").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.pdf"], "expected a file that ends in .html or .md"),
        (["--md", "-o", "x.html"], "expected a file that ends in .md"),
        (["--watch", "--md"], "expected it without --out and --md"),
        (["--outcome", "test_acuracy"], "did you mean 'test_accuracy'?"),
        (["--baseline", "nothing"], "no arm 'nothing'"),
        (["--equivalent", "test_accuracy"], "expected OUTCOME=BAND"),
        (["--experiment", "none.yml"], "none.yml"),
        (["-o", "none/x.html"], "cannot write none/x.html"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(out: Path, arguments: list[str], message: str) -> None:
    result = run(out, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (out / "report.html").exists()


def test_no_folder_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path / "none")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no folder" in result.stderr
