"""What a report says, against the numbers that were written, for folders in every state."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from support.reported import EPOCHS, accuracy_of, provenance, write_everything, write_hostile, write_states
from support.synthetic_results import learning_curve, make_job, matrix, write_job, write_jobs

from nteleport.errors import ExperimentError, ResultsError
from nteleport.jobs.tuning import tuning_folder, tuning_table
from nteleport.page.charts import columns
from nteleport.page.numbers import in_words, rounded
from nteleport.page.parts import Chart, Code, Report, Table
from nteleport.page.report import read_report


def part(report: Report, kind: type, title: str):  # type: ignore[no-untyped-def]
    """The one part of this kind whose title begins so."""
    (found,) = [
        each
        for section in report.sections
        for each in section.parts
        if isinstance(each, kind) and each.title.startswith(title)
    ]
    return found


def records(table: Table) -> list[dict[str, object]]:
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, row, strict=True)) for row in table.rows]


def charts(report: Report, name: str) -> list[Chart]:
    section = next(each for each in report.sections if each.name == name)
    return [each for each in section.parts if isinstance(each, Chart)]


def names(report: Report) -> list[str]:
    return [section.name for section in report.sections]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list]:  # type: ignore[type-arg]
    out = tmp_path_factory.mktemp("everything")
    jobs = write_everything(out)
    return read_report(out), jobs


def test_a_folder_with_everything_has_every_section(everything) -> None:  # type: ignore[no-untyped-def]
    report, _ = everything
    assert names(report) == ["verdicts", "curves", "tuning", "asked", "ran", "certificates", "reproduce"]
    assert report.summary == "12 jobs: 12 finished"
    assert not report.running


def test_curves_are_the_mean_the_deviation_and_the_runs_that_were_written(everything) -> None:  # type: ignore[no-untyped-def]
    report, jobs = everything
    chart = charts(report, "curves")[0]
    assert chart.data["x"] == list(range(EPOCHS))
    measure = next(each for each in chart.data["measures"] if each["name"] == "val_accuracy")
    assert [arm["label"] for arm in chart.arms] == ["lr 0.01, teleported", "lr 0.1, no teleport"]
    assert [arm["color"] for arm in chart.arms] == ["var(--arm-1)", "var(--arm-0)"]
    for group, mode in enumerate(("random", "no_teleport")):
        written = [
            [100 * row["val_accuracy"] for row in learning_curve(job, EPOCHS)]
            for job in jobs
            if job.teleportation.mode == mode
        ]
        by_epoch = list(zip(*written, strict=True))
        assert measure["mean"][group] == pytest.approx([statistics.mean(each) for each in by_epoch], rel=5e-4)
        assert measure["std"][group] == pytest.approx([statistics.stdev(each) for each in by_epoch], rel=5e-4)
        assert measure["n"][group] == len(written)
        for run, values in zip(measure["runs"][group], written, strict=True):
            assert run == pytest.approx(values, rel=5e-4)


def test_outcomes_are_means_over_finished_runs(everything) -> None:  # type: ignore[no-untyped-def]
    report, jobs = everything
    table = part(report, Table, "Outcomes")
    written = [accuracy_of(job) for job in jobs if job.teleportation.mode == "random"]
    row = next(row for row in table.rows if row[1] == "lr 0.01, teleported")
    assert row[4:6] == pytest.approx([statistics.mean(written), statistics.stdev(written)])


def test_forest_plot_shows_the_paired_differences(everything) -> None:  # type: ignore[no-untyped-def]
    report, _ = everything
    data = part(report, Chart, "test_accuracy: differences").data["rows"]
    assert data["heading"] == [True, False]
    differences = [10 + 0.1 * run for run in range(6)]
    assert data["mean"][1] == pytest.approx(statistics.mean(differences), rel=1e-3)
    half = 2.5706 * statistics.stdev(differences) / math.sqrt(6)  # the 97.5 % quantile of t with 5 degrees
    assert data["high"][1] == pytest.approx(statistics.mean(differences) + half, rel=1e-3)
    pairs = part(report, Chart, "test_accuracy: pairs").data["pairs"]
    assert pairs["x"] == pytest.approx([70 + run for run in range(6)])
    assert pairs["y"] == pytest.approx([80 + 1.1 * run for run in range(6)])


def test_learning_rates_are_those_of_the_table(everything) -> None:  # type: ignore[no-untyped-def]
    report, _ = everything
    (chart,) = charts(report, "tuning")
    section = next(each for each in report.sections if each.name == "tuning")
    assert chart.logarithmic == {"x": True}
    assert chart.data["best"] == {
        "g": [0, 0, 0, 1, 1, 1],
        "x": [0.001, 0.01, 0.1, 0.001, 0.01, 0.1],
        "y": [45, 45, 85, 45, 85, 45],
    }
    assert chart.data["points"]["chosen"] == [False, False, True, False, True, False]
    table = next(each for each in section.parts if isinstance(each, Table))
    assert [(row["arm"], row["chosen optimizer.lr"], row["score (%)"]) for row in records(table)] == [
        ("no teleport", 0.1, pytest.approx(0.85)),
        ("teleported", 0.01, pytest.approx(0.85)),
    ]
    urgent = [each.text for each in section.parts if getattr(each, "urgent", False)]
    assert len(urgent) == 1
    assert "no teleport: the best point (optimizer.lr 0.1) lies on an edge" in urgent[0]


def test_certificates_are_summed_up(everything) -> None:  # type: ignore[no-untyped-def]
    report, _ = everything
    (row,) = part(report, Table, "Certificates of each arm").rows
    assert row == ["teleported", 6, 1, 64, 19.0, 6e-7]
    assert len(part(report, Table, "Teleportations that were rolled back").rows) == 1


def test_machines_versions_and_commands_are_counted(tmp_path: Path) -> None:
    jobs = matrix(runs=2, epochs=2)
    write_jobs(tmp_path, jobs)
    for job in jobs[:3]:
        (tmp_path / job.name / "provenance.json").write_text(provenance())
    (tmp_path / jobs[3].name / "provenance.json").write_text(
        provenance(
            versions={"torch": "2.7.0"}, command="nteleport train other.yml --out x", earlier=[{"host": "a"}]
        )
    )
    report = read_report(tmp_path)
    assert part(report, Table, "Machines").rows == [["node7", "cpu", "a processor", "1", "Linux", 4]]
    assert ["torch", "2.6.0", 3] in part(report, Table, "Versions").rows
    assert (
        part(report, Code, "Command, as recorded by 3 jobs").text
        == "nteleport train experiment.yml --out out"
    )
    assert any("2 versions of torch: 2.6.0, 2.7.0" in note for note in report.notes)


def test_jobs_in_every_state_are_reported_with_the_reason(tmp_path: Path) -> None:
    write_states(tmp_path)
    report = read_report(tmp_path)
    assert "certificates" in names(report)  # of the one whose rows are odd
    rows = {(row["state"], row["why"]) for row in records(part(report, Table, "What did not finish"))}
    assert ("diverged", "") in rows
    assert ("failed", "out of memory") in rows
    assert any(state == "left out" and "hparams.yml" in str(why) for state, why in rows)
    assert any("result.json is damaged" in str(why) for _, why in rows)


@pytest.mark.parametrize("runs", [1, 2])
def test_a_single_job_and_a_single_arm_are_enough(tmp_path: Path, runs: int) -> None:
    write_jobs(tmp_path, [make_job(run=run, epochs=1) for run in range(runs)])
    report = read_report(tmp_path)
    assert names(report) == ["verdicts", "curves", "asked", "ran", "reproduce"]
    assert "Nothing is compared" in report.sections[0].parts[0].text  # type: ignore[union-attr]


def test_jobs_without_an_epoch_are_enough(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(), rows=[], state=None)
    assert "1 job: 1 pending" in read_report(tmp_path).summary


def test_one_pair_is_enough(tmp_path: Path) -> None:
    write_everything(tmp_path, runs=1)
    assert names(read_report(tmp_path))[0] == "verdicts"


def test_a_comparison_that_was_asked_for_is_not_silently_missing(tmp_path: Path) -> None:
    write_jobs(tmp_path, [make_job(epochs=1)])
    with pytest.raises(ResultsError, match="nothing to compare"):
        read_report(tmp_path, outcomes=("test_accuracy",))


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no folder"):
        read_report(tmp_path / "none")


def test_an_experiment_file_is_shown_and_compared_with_the_jobs(tmp_path: Path) -> None:
    job, other = make_job(epochs=1), make_job(epochs=1, run=1)
    write_jobs(tmp_path / "out", [job, other])
    config = tmp_path / "mine.yml"
    config.write_text(f"# as I wrote it\n{(tmp_path / 'out' / job.name / 'config.yml').read_text()}")
    report = read_report(tmp_path / "out", experiment=config)
    assert part(report, Code, "Experiment file").text.startswith("# as I wrote it")
    notes = [getattr(each, "text", "") for each in report.sections[-1].parts]
    assert "This experiment file does not describe 1 job of this folder." in notes
    config.write_text("models: 3")
    with pytest.raises(ExperimentError):
        read_report(tmp_path / "out", experiment=config)


def test_hostile_names_are_read(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    report = read_report(tmp_path)
    assert len(report.notes) <= 31
    json.dumps(
        [each.data for section in report.sections for each in section.parts if isinstance(each, Chart)]
    )


@pytest.mark.parametrize(
    ("value", "short"),
    [(0.123456, 0.1235), (98765.4, 98770), (1e-7, 1e-7), (math.nan, None), (math.inf, None), (2.0, 2)],
)
def test_numbers_of_charts_have_four_digits(value: float, short: float | None) -> None:
    assert rounded(value) == short


def test_numbers_in_words() -> None:
    assert in_words(0.98765, "percent") == "98.77"
    assert in_words(0.2512, "seconds") == "0.25 s"
    assert in_words(7200.0, "seconds") == "2 h 00 min"
    assert in_words(math.nan, "number") == ""
    assert in_words(None, "text") == ""


def test_columns_of_rows() -> None:
    assert columns("ab", [(1, 2), (3, 4)]) == {"a": [1, 3], "b": [2, 4]}


def test_a_folder_with_tuning_jobs_only_shows_what_is_known_of_their_values(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_everything(whole)
    out = tmp_path / "tuned"
    write_jobs(tuning_folder(out), matrix(runs=2, epochs=EPOCHS))
    report = read_report(out)
    assert names(report) == ["verdicts", "asked", "ran", "reproduce"]
    assert report.summary == "4 jobs for tuning: 4 finished"
    assert report.notes == (
        "only jobs for tuning so far: the runs to report are trained once a value is chosen",
    )
    tuning_table(out).write_bytes(tuning_table(whole).read_bytes())
    tuned = read_report(out)
    assert names(tuned) == ["verdicts", "tuning", "asked", "ran", "reproduce"]
    assert [(chart.title, chart.data) for chart in charts(tuned, "tuning")] == [
        (chart.title, chart.data) for chart in charts(read_report(whole), "tuning")
    ]
    with pytest.raises(ResultsError, match=r"no jobs in .*tuned but those of its tuning"):
        read_report(out, outcomes=["val_accuracy"])
