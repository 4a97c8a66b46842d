"""Damaged, unreadable and foreign files of one job: never a crash, never lost work, and never in the way."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.synthetic_results import make_job, write_job

from nteleport.cli.collect import collect
from nteleport.cli.plot import plot
from nteleport.cli.status import status
from nteleport.errors import JobError, NTeleportError, ResultsError
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import read_result
from nteleport.jobs.state import as_table, job_state, matching, read_status, summarize
from nteleport.jobs.table import epochs_table, read_results
from nteleport.runner.attempt import known_outcome
from nteleport.runner.queue import Ticket

EPOCHS = 3
BAD, GOOD = (make_job(run=run, epochs=EPOCHS) for run in range(2))


def unreadable(monkeypatch: pytest.MonkeyPatch, *files: Path, number: int = errno.EIO) -> None:
    """From now on these files cannot be read, as on a broken disk."""
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path in files:
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)


def strictly(text: str) -> Any:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


NESTED = (
    '{"state": "finished", "final": {"val_accuracy": {"a": [1]}}, "epochs": {}, "seconds": [], "error": {}}'
)
RESULTS = {
    "a list": "[1, 2]",
    "a list of states": '{"state": ["finished"]}',
    "numbers as text": '{"state": "finished", "epochs": "3", "final": {"val_accuracy": "0.5"}}',
    "lists for mappings": '{"state": "finished", "final": [1], "best": [2], "test": [3], "digest": [4]}',
    "nested nonsense": NESTED,
    "nested without end": "[" * 100_000,
    "NaN": '{"state": "finished", "epochs": NaN, "seconds": NaN, "final": {"val_accuracy": NaN}}',
    "infinities": '{"state": "diverged", "epochs": 1e999, "seconds": -Infinity, "final": {"lr": 1e999}}',
    "numbers without end": f'{{"state": "finished", "seconds": {"9" * 400}, "epochs": {"9" * 400}}}',
    "too many digits": f'{{"state": "finished", "epochs": {"9" * 5000}}}',
    "half a character": '{"state": "failed", "error": "\\ud800"}',
    "nothing": "",
    "no text": "\udcff\udcfe",
}
METRICS = {
    "text": "epoch,val_accuracy\na,b\n",
    "NaN": "epoch,val_accuracy,train_loss,seconds\nnan,nan,nan,nan\n0,nan,inf,nan\n",
    "other columns": "epoch,job,state\n0,1,2\n",
    "a column twice": "epoch,lr, lr\n0,1,2\n",
    "endless numbers": f"epoch,val_accuracy\n{'9' * 400},{'9' * 5000}\n1e300,1\n0.5,1\n-1,1\n",
    "returns": "epoch,val_accuracy\r0,1\r\n0,1\r1\n",
    "separators": "epoch,val_accuracy\n0,1\x0b\x0c\x1c\n\x85,1\n",
    "no text": "\udcff\udcfe,epoch\n\udcff,1\n",
}
HPARAMS = {
    "a date in month 13": "a: 2020-13-45\n",
    "a list that contains itself": "a: &x [*x]\n",
    "tuples as names": "? [1, 2]\n: 3\nb: {[1, 2]: 3}\n",
    "nested without end": "[" * 5_000,
    "endless numbers": f"a: {'9' * 400}\nb: {'9' * 5000}\ntraining.epochs: {'9' * 5000}\n",
    "half a character": '"\\ud800": "\\ud800"\n',
    "names of columns": "job: 1\nstate: 2\nepochs: 3\nepoch: 4\nval_accuracy: 5\n",
    "only nothing": "a: null\n",
    "no text": "\udcff\udcfe",
}
FILES = {
    **{f"result {name}": ("result", text) for name, text in RESULTS.items()},
    **{f"metrics {name}": ("metrics", text) for name, text in METRICS.items()},
    **{f"hparams {name}": ("hparams", text) for name, text in HPARAMS.items()},
}


def a_claim_that_is_a_file(paths: JobPaths) -> None:
    paths.result.unlink()
    paths.lease.write_text("mine")


def folders_for_files(paths: JobPaths) -> None:
    for file in (paths.result, paths.metrics):
        file.unlink()
        file.mkdir()


def a_link_to_itself(paths: JobPaths) -> None:
    (paths.out / "link").symlink_to(paths.out / "link")


BREAK: dict[str, Callable[[JobPaths], None]] = {
    "a claim that is a file": a_claim_that_is_a_file,
    "folders for files": folders_for_files,
    "a link to itself": a_link_to_itself,
    **{
        name: lambda paths, file=file, text=text: getattr(paths, file).write_bytes(  # type: ignore[misc]
            text.encode(errors="surrogateescape")
        )
        for name, (file, text) in FILES.items()
    },
}


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def check_that_the_other_is_shown(out: Path) -> None:
    shown = strictly(run(status, out, "--json").stdout)
    assert {"job": GOOD.name, "state": "finished", "epochs": EPOCHS}.items() <= {
        **next(job for job in shown["jobs"] if job["job"] == GOOD.name)
    }.items()
    rows = list(csv.DictReader(io.StringIO(run(status, out, "--csv").stdout)))
    assert GOOD.name in [row["job"] for row in rows]
    assert run(status, out).exit_code == 0
    collected = csv.DictReader(io.StringIO(run(collect, out).stdout))
    assert [row["job"] for row in collected].count(GOOD.name) == EPOCHS


@pytest.mark.parametrize("how", BREAK)
def test_one_bad_job_does_not_hide_the_others(tmp_path: Path, how: str) -> None:
    bad = write_job(tmp_path, BAD)
    write_job(tmp_path, GOOD)
    BREAK[how](bad)

    check_that_the_other_is_shown(tmp_path)


@pytest.mark.parametrize(
    "how", ["result NaN", "metrics text", "hparams names of columns", "folders for files"]
)
def test_one_bad_job_does_not_keep_the_others_from_being_drawn(tmp_path: Path, how: str) -> None:
    BREAK[how](write_job(tmp_path, BAD))
    write_job(tmp_path, GOOD)

    assert run(plot, tmp_path, "--metrics", "val_accuracy").exit_code == 0


def test_a_folder_that_cannot_be_looked_into_is_named_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write_job(tmp_path, BAD)
    write_job(tmp_path, GOOD)
    look = Path.stat

    def refuse(path: Path, **options: Any) -> Any:
        if bad.directory in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    unreadable(
        monkeypatch,
        *(bad.directory / name for name in ("result.json", "hparams.yml", "metrics.csv")),
        number=errno.EACCES,
    )

    check_that_the_other_is_shown(tmp_path)
    (failed,) = [job for job in read_status(tmp_path) if job.state == "failed"]
    assert "Permission denied" in failed.error
    assert read_results(tmp_path).skipped == (f"{BAD.name}: hparams.yml cannot be read: Permission denied",)


CONTENT = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet="epoch,val_accuracy\n0123456789.-nainf\r\x0b\"'{}[]:& \t", max_size=200).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["state", "epochs", "final", "val_accuracy", "seconds", "error", "digest"]),
                inner,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["finished", "failed", "diverged"])},
        optional={
            name: st.floats() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
            for name in ("epochs", "final", "best", "seconds", "error")
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300, deadline=None)
@given(result=CONTENT, metrics=CONTENT.map(lambda rows: b"epoch,val_accuracy\n" + rows), hparams=CONTENT)
@example(result=b"", metrics=b"epoch,seconds\n0,1e308\n1,1e308\n", hparams=b"training.epochs: 999999999")
def test_any_content_of_the_files_of_a_job_is_read_or_refused(
    result: bytes, metrics: bytes, hparams: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        paths = JobPaths(out, BAD.name)
        paths.directory.mkdir()
        for file, content in ((paths.result, result), (paths.metrics, metrics), (paths.hparams, hparams)):
            file.write_bytes(content)
        paths.config.touch()

        jobs = read_status(out)
        assert [job.job for job in jobs] == [BAD.name]
        json.dumps([as_table(jobs), summarize(jobs).eta_seconds], allow_nan=False)
        known_outcome(Ticket.issue(BAD, out), redo=False)
        with suppress(JobError):
            job_state(paths, BAD)
        with suppress(NTeleportError):
            epochs_table(read_results(out)).to_csv(io.StringIO())


def test_a_result_that_cannot_be_read_is_neither_missing_nor_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_job(tmp_path, BAD)
    write_job(tmp_path, GOOD)
    unreadable(monkeypatch, paths.result)

    with pytest.raises(ResultsError, match=r"result\.json cannot be read: Input/output error"):
        read_result(paths)
    assert job_state(paths) == "failed"
    found = {job.job: job for job in read_status(tmp_path)}
    assert "Input/output error" in found[BAD.name].error
    assert found[GOOD.name].state == "finished"
    assert ["Input/output error" in str(job.problems) for job in read_results(tmp_path).jobs] == [
        job.name == BAD.name for job in read_results(tmp_path).jobs
    ]


def test_a_result_replaced_at_this_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_job(tmp_path, BAD)
    read, failures = Path.read_bytes, [OSError(errno.ESTALE, "Stale file handle")]

    def fail_once(path: Path) -> bytes:
        if failures:
            raise failures.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail_once)
    assert read_result(paths)["state"] == "finished"


def test_metrics_that_cannot_be_read_are_a_problem_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_job(tmp_path, BAD)
    unreadable(monkeypatch, paths.metrics)
    assert read_results(tmp_path).jobs[0].problems == (
        "metrics.csv cannot be read: Input/output error",
        "metrics.csv holds 0 of 3 epochs",
    )


def test_the_result_of_another_job_is_not_taken_for_that_of_this_one(tmp_path: Path) -> None:
    """Two jobs whose digests begin alike share a name."""
    paths = JobPaths(tmp_path, GOOD.name)
    paths.directory.mkdir()
    paths.result.write_text(json.dumps({"state": "finished", "digest": BAD.digest}))

    both = f"its digest is {BAD.digest}, expected {GOOD.digest}"
    with pytest.raises(JobError, match=both):
        job_state(paths, GOOD)
    with pytest.raises(JobError, match=both):
        matching([GOOD], tmp_path, ["finished"])
    for redo in (False, True):
        outcome = known_outcome(Ticket.issue(GOOD, tmp_path), redo=redo)
        assert outcome is not None
        assert outcome.state == "failed"
        assert both in outcome.error
    assert json.loads(paths.result.read_text())["digest"] == BAD.digest


@pytest.mark.parametrize("content", [{}, {"digest": GOOD.digest}, {"digest": None}])
def test_a_result_of_this_job_or_without_a_digest_is_accepted(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    paths = JobPaths(tmp_path, GOOD.name)
    paths.directory.mkdir()
    paths.result.write_text(json.dumps({"state": "finished", **content}))

    assert job_state(paths, GOOD) == "finished"
    outcome = known_outcome(Ticket.issue(GOOD, tmp_path), redo=False)
    assert outcome is not None
    assert outcome.state == "finished"
