"""That a page to publish names no machine, no person and no folder, and says all else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.reported import provenance, write_everything
from support.synthetic_results import make_job, write_job

from nteleport.jobs.paths import JobPaths
from nteleport.page.anonymous import without_names
from nteleport.page.html import as_html
from nteleport.page.markdown import as_markdown
from nteleport.page.parts import Chart, Code, Note, Report, Section
from nteleport.page.report import read_report
from nteleport.page.server import Live

COMMAND = (
    "nteleport train /home/alice/work/experiment.yml "
    "--out '/home/alice/my runs/out' --data-dir=/scratch/lab7/mnist"
)
SECRETS = ("secret-host", "alice", "lab7", "bob", "/home", "/scratch", "my runs/", "gitlab.secret", "C:\\")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in a home directory, of jobs on two machines, one of which failed."""
    out = tmp_path / "home" / "alice" / "results"
    jobs = write_everything(out)
    for number, job in enumerate(jobs):
        host = f"secret-host-{number % 2}.cluster.example"
        JobPaths(out, job.name).provenance.write_text(provenance(host=host, command=COMMAND))
    failed = write_job(out, make_job(run=9), epochs=1, state="failed")
    error = (
        "secret-host-1: cannot read /home/alice/work/weights.pt, which bob@secret-host-1 or Alice owns: "
        r"C:\Users\bob\torch\lib.dll, ~bob/cache/x, https://gitlab.secret.example/alice/nets.git or "
        "git@gitlab.secret.example:alice/nets.git (/home/alice)"
    )
    failed.result.write_text(json.dumps({"state": "failed", "error": error}))
    return out


def anonymous_forms(out: Path, experiment: Path | None = None) -> list[str]:
    report = read_report(out, anonymous=True, experiment=experiment)
    live = Live(out, 0.0, anonymous=True, experiment=experiment)
    return [as_html(report), as_markdown(report), live.page()]


def own_words(page: str) -> str:
    """A page without the library in it."""
    return page.replace(page[page.find("<script") : page.rfind("</script>")], "") if "<html" in page else page


def test_no_form_of_the_page_names_machines_people_or_folders(out: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("vl_convert")
    named = read_report(out)
    for secret in ("secret-host-0.cluster.example", "alice", "/scratch/lab7", "gitlab.secret"):
        assert secret in str(named)
    assert not [
        secret for secret in SECRETS if secret.lower() in str(read_report(out, anonymous=True)).lower()
    ]
    for page in anonymous_forms(out):
        assert not [secret for secret in SECRETS[:-1] if secret in own_words(page).lower()]
        for kept in ("machine 1", "machine 2", "experiment.yml --out", "weights.pt", "digits"):
            assert kept in page.replace("\\", "")


def test_everything_else_stays_as_it_is(out: Path) -> None:
    named, unnamed = read_report(out), read_report(out, anonymous=True)
    changed = [
        (before, after)
        for first, second in zip(named.sections, unnamed.sections, strict=True)
        for before, after in zip(first.parts, second.parts, strict=True)
        if str(before).replace("(", "[").replace(")", "]") != str(after).replace("(", "[").replace(")", "]")
    ]
    assert {getattr(before, "title", "") for before, _ in changed} == {
        "Machines",
        "What did not finish, and why",
        "Command, as recorded by 12 jobs",
    }
    assert (named.notes, named.summary) == (unnamed.notes, unnamed.summary)


def test_the_experiment_file_and_a_folder_without_jobs_name_nobody(out: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "experiment.yml"
    experiment.write_text(
        "# of alice, see /home/alice/notes.txt\ndatasets: [digits]\nmodels: [mlp]\n"
        "optimizers: [{cls: SGD, lr: 0.1}]\n"
    )
    report = read_report(out, anonymous=True, experiment=experiment)
    (shown,) = [part for part in report.sections[-1].parts if isinstance(part, Code) and "file" in part.title]
    assert shown.text.startswith("# of user, see notes.txt\ndatasets: [digits]\n")
    empty = tmp_path / "home" / "alice" / "empty"
    empty.mkdir()
    assert "no jobs in empty" in Live(empty, 0.0, anonymous=True).page()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train -o /home/carol/out", "train -o out"),
        ("rate 1e-3 / 2 and/or s/epoch, 1 /3, </script>", "rate 1e-3 / 2 and/or s/epoch, 1 /3, </script>"),
        ("~5 minutes, lr ~3e-4, hits@10, 14@336", "~5 minutes, lr ~3e-4, hits@10, 14@336"),
        ("lr: 3e-4 # hits@top", "lr: 3e-4 # user"),
        ("configs/evidence/digits.yml", "configs/evidence/digits.yml"),
        ("'/mnt/a b/c d.yml' \"/x/y z\" `/x/y z` “/x/y z”", "'c d.yml' \"y z\" `y z` “y z”"),
        ("""'/srv/it'"'"'s mine/sub dir/out'""", "'out'"),
        ("'/srv/long folder/cut…", "'cut…"),
        (r"/srv/my\ own\ dir/out.yml", "out.yml"),
        ("/srv/a,b/c(1)/d, (/srv/e/f)", "d, (f)"),
        ("~/runs/one ~carol/two", "one two"),
        ("PATH=/home/carol/bin:/opt/dan/bin cc -L/opt/dan/lib", "PATH=bin cc -Llib"),
        (r"\\server\share\file.csv \\?\C:\Users\dan\x C:\Users\Dan Smith\x.txt", "file.csv x x.txt"),
        ("file:///home/carol/x.html?token=1", "x.html"),
        ("https://carol:s3cr3t!@wiki.corp tcp://n9.corp:29500/", "URL URL"),
        ("git@gitlab.corp:carol/nets.git dan@mail.corp", "nets.git user"),
        ("carol, Carol's and carols; USER=erin, erin", "user, user's and carols; USER=user, user"),
        ("on n1 and N1.hpc.example, not n12 or on1", "on machine 1 and machine 1, not n12 or on1"),
        ("login.hpc.example:22", "a machine:22"),
        ("epochs: 10 at 10.0.0.5", "epochs: 10 at machine 3"),
        ("job-n2_carol", "job-machine 2_user"),
        ("root /root/x", "root x"),
        ("ıstanbul İstanbul", "a machine machine 4"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    report = Report("", "", (), (Section("s", "S", (Note(text), Note("in /home/carol"))),))
    found = without_names(report, ["n1.hpc.example", "n2", "n1.hpc.example", "10.0.0.5", "İstanbul"])
    assert found.sections[0].parts[0] == Note(expected)


@pytest.mark.parametrize("letters", ["x", "a/", "~", "https://", "a@", "/ ", "\\", "'"])
def test_long_texts_take_no_longer_than_their_length(letters: str) -> None:
    """A pattern that looks from every letter to the end would take minutes."""
    note = Note(letters * 100_000)
    found = without_names(Report("", "", (), (Section("s", "S", (note,)),)), ["n1"])
    assert found.sections[0].name == "s"


def test_places_may_hold_spaces_and_styles_stay(tmp_path: Path) -> None:
    place = tmp_path / "my own" / "results"
    chart = Chart("", "", {}, {"a": [1, "x"]}, [{"label": "an arm", "color": "var(--arm-1)"}])
    notes = (f"no jobs in {place}", f"cannot read {place}/a/b")
    found = without_names(Report("", "", notes, (Section("s", "S", (chart,)),)), ["arm"], [place])
    assert found.notes == ("no jobs in results", "cannot read results/a/b")
    assert found.sections[0].parts[0].arms == [{"label": "an machine 1", "color": "var(--arm-1)"}]  # type: ignore[union-attr]


def test_whoever_makes_the_page_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "dave")
    assert without_names(Report("", "", ("denied to dave",), ()), []).notes == ("denied to user",)
