"""``nteleport reproduce``: check whether the claims of the paper hold here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nteleport.cli.options import Command, NamedPath
from nteleport.errors import JobError

if TYPE_CHECKING:
    from nteleport.reproduction.claims import Claim
    from nteleport.reproduction.folder import Layout
    from nteleport.studies.study import Progress

__all__ = ["reproduce"]

_COLORS = {"holds": "green", "does not hold": "red", "not run": "yellow"}


@click.command(cls=Command)
@click.argument("figures", metavar="[FIGURE]...", nargs=-1, type=int)
@click.option(
    "--tier", type=click.Choice(["cpu", "real", "paper"]), default="cpu", show_default=True,
    help="cpu: small experiments, minutes on two cores. real: the paper's networks on MNIST and CIFAR-10, as "
    "far as two cores get in 40 minutes. paper: as published, days on a GPU.",
)  # fmt: skip
@click.option(
    "--out", "-o", type=NamedPath(file_okay=False, path_type=Path), default=None,
    help="The output folder; created if missing. [default: results/reproduction-TIER]",
)  # fmt: skip
@click.option(
    "--data-dir", type=NamedPath(path_type=Path), default="data", show_default=True,
    help="Where data sets are; the tiers real and paper download those that are missing.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Parallel trainings. [default: one per core on a CPU]"
)
@click.option(
    "--experiments", type=NamedPath(exists=True, file_okay=False, path_type=Path),
    help="The folder with the experiment files. [default: configs/TIER of this checkout]",
)  # fmt: skip
def reproduce(
    figures: tuple[int, ...],
    tier: str,
    out: Path | None,
    data_dir: Path,
    device: str,
    jobs: int | None,
    experiments: Path | None,
) -> int:
    """Check the claims of the paper: all of them, or those of some FIGUREs (4 to 11).

    Runs the studies and trainings that are missing, then writes a table with one row per claim: what the
    paper says, what was measured, with its confidence interval over paired seeds, and whether the claim
    holds. After an interruption, repeat the command to continue.
    """
    from nteleport.reproduction.claims import claims_of
    from nteleport.reproduction.folder import Layout

    claims = claims_of(tier)
    known = sorted({claim.figure for claim in claims})
    unknown = [figure for figure in figures if figure not in known]
    if unknown:
        raise click.UsageError(f"no claim about figure {unknown[0]}: expected {', '.join(map(str, known))}")
    chosen = [claim for claim in claims if not figures or claim.figure in figures]
    folder = experiments or _shipped_experiments(tier)
    layout = Layout(out or Path("results") / f"reproduction-{tier}", folder, data_dir, device)
    exit_code = _run(chosen, layout, jobs, download=tier != "cpu")
    _report(claims, [] if exit_code else chosen, layout, tier)
    if exit_code:
        click.echo("stopped: repeat the command to continue with what is missing")
    return exit_code


def _shipped_experiments(tier: str) -> Path:
    folder = Path(__file__).parents[2] / "configs" / tier
    if not folder.is_dir():
        raise JobError(
            f"no experiments in {folder}: expected --experiments with configs/{tier} of the repository"
        )
    return folder


def _run(claims: Sequence[Claim], layout: Layout, jobs: int | None, *, download: bool) -> int:
    from nteleport.cli.progress import progress_on
    from nteleport.reproduction import run
    from nteleport.runner.signals import stopping_on_signals

    trainings = run.jobs_of(claims, layout, download=download)
    with stopping_on_signals() as flag:
        run.run_studies(run.missing_studies(claims, layout), _studying, flag)
        if trainings and not flag():
            with progress_on(sys.stderr) as report:
                run.train(trainings, layout, jobs, report, flag)
        return flag.exit_code


@contextmanager
def _studying(name: str) -> Iterator[Progress]:
    """Print a line for a study and, on a terminal, a progress bar."""
    from nteleport.cli.study import progress_bar

    click.echo(f"study {name}", err=True)
    with progress_bar(name) as progress:
        yield progress


def _report(claims: Sequence[Claim], chosen: Sequence[Claim], layout: Layout, tier: str) -> None:
    """Write the table of all claims and the pictures, and print the rows of the requested claims."""
    from nteleport.jobs.atomic import write_text_atomic
    from nteleport.reproduction.answers import answers
    from nteleport.reproduction.report import as_json, draw_pictures, markdown, summary

    rows = answers(claims, layout)
    layout.out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(layout.json, as_json(rows, tier))
    pictures = draw_pictures(claims, layout)
    write_text_atomic(layout.markdown, markdown(rows, tier, pictures, layout.out))
    names = {claim.name for claim in chosen}
    for row in rows:
        if row.claim not in names:
            continue
        verdict = click.style(f"{row.verdict:13}", fg=_COLORS[row.verdict])
        click.echo(f"Fig. {row.figure:<2}  {verdict}  {row.says}: {row.here}\n{'':22} {row.measured}")
    click.echo(f"{summary(rows)}: {layout.markdown}, {layout.json}, {layout.pictures}")
