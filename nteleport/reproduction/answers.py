"""The answer to every claim from the results on disk: a row of the report. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nteleport.data.sources import is_present
from nteleport.errors import ResultsError
from nteleport.jobs.job import Job
from nteleport.jobs.table import read_results
from nteleport.reproduction.claims import Claim, StudyClaim, TrainingClaim
from nteleport.reproduction.folder import Layout
from nteleport.reproduction.measures import MEASURES, in_words
from nteleport.reproduction.trainings import Comparison, Curves, compare, curves_of, pairs_of, rows_of
from nteleport.vocabulary import MODES

HOLDS, DOES_NOT_HOLD, NOT_RUN = "holds", "does not hold", "not run"

_AT_ONE_RATE = "at the published rates"


@dataclass(frozen=True)
class Row:
    """One row of the report.

    Attributes:
        claim: the name of the claim.
        figure: of the paper.
        says: what the paper says.
        here: the settings used, in words.
        measured: the value with its interval, or why there is none.
        verdict: `HOLDS`, `DOES_NOT_HOLD` or `NOT_RUN`.
        numbers: the measured numbers.
        condition: what the verdict depends on, in words.
    """

    claim: str
    figure: int
    says: str
    here: str
    measured: str
    verdict: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    condition: str = ""


def answers(claims: Sequence[Claim], layout: Layout) -> list[Row]:
    """The rows of all claims, in their order."""
    curves = _read_curves(layout)
    return [row for claim in claims for row in _rows(claim, layout, curves)]


def _rows(claim: Claim, layout: Layout, curves: Curves) -> Iterator[Row]:
    if isinstance(claim, StudyClaim):
        yield _study_row(claim, layout)
        return
    for words, jobs in rows_of(layout.expand(claim)).items():
        yield _training_row(claim, words, jobs, layout, curves)


def _read_curves(layout: Layout) -> dict[str, list[float]]:
    """Validation accuracies of the jobs that are over."""
    try:
        results = read_results(layout.jobs)
    except ResultsError:
        return {}
    names = {
        position: job.name
        for position, job in enumerate(results.jobs)
        if job.state in ("finished", "diverged")
    }
    over = results.epochs[results.epochs["job"].isin(names)]
    return curves_of(over.assign(job=over["job"].map(names))) if len(over) else {}


def _study_row(claim: StudyClaim, layout: Layout) -> Row:
    settings = claim.settings
    words = [
        " and ".join(_shown(model) for model in settings["models"]),
        f"on {' and '.join(settings['datasets'])}",
        *(
            f"{key.replace('_', ' ')} {_shown(v)}"
            for key, v in settings.items()
            if key not in ("models", "datasets")
        ),
        f"{claim.seeds} seeds",
    ]
    here = f"study {claim.study}: {words[0]} {', '.join(words[1:])}"
    tables = [layout.study(claim, seed).tables() for seed in range(claim.seeds)]
    whole = [each for each in tables if each is not None]
    if len(whole) < claim.seeds:
        return Row(
            claim.name, claim.figure, claim.says, here, f"{len(whole)} of {claim.seeds} seeds run", NOT_RUN
        )
    answer = MEASURES[claim.measure](whole)
    verdict = HOLDS if answer.holds else DOES_NOT_HOLD
    return Row(claim.name, claim.figure, claim.says, here, answer.text, verdict, answer.numbers)


def _training_row(
    claim: TrainingClaim, words: tuple[str, ...], jobs: Sequence[Job], layout: Layout, curves: Curves
) -> Row:
    dataset = words[0]
    pairs = pairs_of(jobs, claim)
    rates = "/".join(f"{rate:g}" for rate in dict.fromkeys(p.treated.optimizer.kwargs["lr"] for p in pairs))
    seeds = len({pair.treated.run for pair in pairs})
    training = jobs[0].training
    sides = f"{MODES[claim.treated].label} against {MODES[claim.baseline].label}"
    details = [words[3], words[2], f"lr {rates}", f"{training.epochs} epochs", f"batch {training.batch_size}"]
    here = f"{words[1]} on {dataset}, {', '.join(filter(None, details))}, {seeds} seeds; {sides}"
    found = compare(pairs, curves)
    if found is None:
        done = sum(bool(curves.get(p.treated.name)) and bool(curves.get(p.baseline.name)) for p in pairs)
        missing = f"{done} of {len(pairs)} pairs trained"
        reason = missing if is_present(dataset, layout.data_dir) else f"{dataset} is not on this machine"
        return Row(claim.name, claim.figure, claim.says, here, reason, NOT_RUN)
    holds = found.gains_early if claim.gain else not any(gain.is_positive for gain in found.gains[:2])
    verdict = HOLDS if holds else DOES_NOT_HOLD
    return Row(
        claim.name, claim.figure, claim.says, here, _described(found), verdict, _numbers(found), _AT_ONE_RATE
    )


def _described(found: Comparison) -> str:
    gains = [
        f"{in_words(gain.scaled(100), 1, signed=True)} at epoch {epoch}"
        for gain, epoch in zip(found.gains, found.epochs, strict=True)
    ]
    waits = (
        f"{found.treated_epochs:.1f} against {found.baseline_epochs:.1f} epochs to {found.reach:.0%} "
        f"({in_words(found.sooner, 1, signed=True)})"
    )
    never = (
        f"; never there: {found.never[0]} against {found.never[1]} of {found.pairs}"
        if any(found.never)
        else ""
    )
    return f"accuracy in points {', '.join(gains)}; {waits}{never}"


def _numbers(found: Comparison) -> dict[str, float]:
    numbers: dict[str, float] = {"pairs": found.pairs, "seeds": found.sooner.count, "reach": found.reach}
    intervals = dict(zip(("early", "middle", "last"), found.gains, strict=True)) | {
        "epochs_sooner": found.sooner
    }
    for name, interval in intervals.items():
        numbers |= {f"{name}_{part}": getattr(interval, part) for part in ("mean", "low", "high")}
    numbers |= {"treated_epochs": found.treated_epochs, "baseline_epochs": found.baseline_epochs}
    return numbers | {"treated_never": found.never[0], "baseline_never": found.never[1]}


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join([str(value["cls"]), *(f"{k}={v}" for k, v in value.items() if k != "cls")])
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
