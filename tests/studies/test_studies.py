"""The framework of the studies: their settings, what they write, and that it runs again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from nteleport.cli.app import nteleport
from nteleport.errors import CheckpointError, ExperimentError, StudyError
from nteleport.jobs.job import Component
from nteleport.studies.dot_product import DotProductSettings
from nteleport.studies.micro import MicroSettings
from nteleport.studies.settings import plain_settings
from nteleport.studies.study import STUDIES, find_study, load_study, run_study, settings_yaml

SMALL = {"models": (Component("mlp", {"hidden_layers": [6, 5]}),), "datasets": ("digits",)}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(nteleport, ["study", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", STUDIES)
def test_default_settings_of_every_study_read_back_equal(name: str, tmp_path: Path) -> None:
    study = find_study(name)
    settings = study.settings()
    (tmp_path / "study.yml").write_text(settings_yaml(study, settings), encoding="utf-8")
    assert load_study(tmp_path / "study.yml") == (study, settings)


@pytest.mark.parametrize("name", STUDIES)
def test_help_of_every_study_names_all_its_options_and_imports_no_torch(name: str) -> None:
    program = (
        "import sys; from click.testing import CliRunner; from nteleport.cli.app import nteleport\n"
        f"print(CliRunner().invoke(nteleport, ['study', {name!r}, '--help']).output)\n"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for flag in ("--model", "--dataset", "--data-dir", "--weights", "--cob-range", "--cob-sampling", "--seed",
                 "--device", "--out"):  # fmt: skip
        assert flag in done.stdout


def test_a_study_writes_its_table_its_picture_and_the_settings_that_run_it_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    model = "{cls: mlp, hidden_layers: [6, 5]}"
    sizes = ["--ranges", "2", "--teleportations", "2", "--seed", "4"]
    code, output = run("dot-product", "--model", model, *sizes, "--out", str(first))
    assert code == 0, output
    assert sorted(path.name for path in first.iterdir()) == [
        "dot-product.csv", "dot-product.pdf", "dot-product.png", "study.yml",
    ]  # fmt: skip
    code, output = run("--from", str(first / "study.yml"), "--out", str(second))
    assert code == 0, output
    for name in ("dot-product.csv", "dot-product.png", "study.yml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_settings_given_on_the_command_line_are_those_of_the_settings_file(tmp_path: Path) -> None:
    subject = ["--model", "mlp,{cls: MLP, hidden_layers: [4]}", "--dataset", "random:mnist"]
    ranges = [
        "--cob-range",
        "1e-3",
        "--smallest-cob-range",
        "0.0005",
        "--ranges",
        "1",
        "--teleportations",
        "1",
    ]
    code, output = run("dot-product", *subject, *ranges, "--out", str(tmp_path))
    assert code == 0, output
    expected = DotProductSettings(
        models=(Component("mlp"), Component("mlp", {"hidden_layers": [4]})), datasets=("random:mnist",),
        cob_range=1e-3, smallest_cob_range=5e-4, ranges=1, teleportations=1,
    )  # fmt: skip
    assert load_study(tmp_path / "study.yml")[1] == expected
    assert set(pd.read_csv(tmp_path / "dot-product.csv")["model"]) == {"mlp", "mlp hidden_layers=[4]"}


@pytest.mark.parametrize("separator", [",", " , "])
def test_several_models_with_arguments_are_a_list_like_any_other(separator: str, tmp_path: Path) -> None:
    models = separator.join(f"{{cls: mlp, hidden_layers: [{width}, 4]}}" for width in (5, 6))
    sizes = ["--ranges", "1", "--teleportations", "1"]
    code, output = run("dot-product", "--model", models, *sizes, "--out", str(tmp_path))
    assert code == 0, output
    expected = tuple(Component("mlp", {"hidden_layers": [width, 4]}) for width in (5, 6))
    assert load_study(tmp_path / "study.yml")[1].models == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["micros"], "did you mean 'micro'"),
        (["micro", "--model", "mpl"], "did you mean 'mlp'"),
        (["micro", "--dataset", "random:mnits"], "did you mean 'mnist'"),
        (["micro", "--cob-range", "wide"], "the text 'wide', expected a number"),
        (["micro", "--teleportations", "0"], "expected a whole number of at least 1"),
        (["micro", "--cob-sampling", "intra"], "expected one of intra_landscape"),
        (["micro", "--cob-range", "1.5"], "expected a range from 0 to 1"),
        (["micro", "--model", "mlp,resnet18", "--weights", "w.pt"], "belong to one model"),
        (["micro", "--model", "{cls: mlp, hidden_layers: [4]}", "--weights", "none.pt"], "no such file"),
        (["micro", "--model", "{cls: mlp, hidden_layer: [4]}"], "did you mean 'hidden_layers'"),
        (["micro", "--dataset", "rndom"], "did you mean 'random'"),
        (["micro", "--model", ""], "an empty list, expected at least one value"),
        (["micro", "--batch-size", "[]"], "an empty list, expected at least one value"),
        (["micro", "--cob-range", ".nan"], "expected a number above 0"),
        (["gradients", "--smallest-cob-range", "0.95"], "0.95 is above cob_range 0.9"),
        (["branches", "--optimizer", "{cls: SGD, lrr: 1}"], "did you mean 'lr'"),
        ([], "Usage"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, output = run(*arguments, *(["--out", str(tmp_path)] if len(arguments) > 1 else []))
    assert code == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_all_that_is_wrong_with_a_settings_file_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "study.yml"
    path.write_text("study: micro\ncob_rang: 1\nteleportations: many\nmodels: [mpl]\n", encoding="utf-8")
    with pytest.raises(ExperimentError) as caught:
        load_study(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}:").partition(" ")[0] for line in lines] == ["2:1:", "3:17:", "4:9:"]
    assert "did you mean 'cob_range'" in lines[0]


def test_a_settings_file_without_a_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yml"
    path.write_text("cob_range: 1\n", encoding="utf-8")
    with pytest.raises(ExperimentError, match="missing key 'study', expected one of micro"):
        load_study(path)


def test_a_study_of_one_model_refuses_several() -> None:
    with pytest.raises(StudyError, match="takes one model, got mlp, resnet18"):
        _ = MicroSettings(models=(Component("mlp"), Component("resnet18"))).model


def test_a_list_that_must_have_an_entry_is_refused_without_one() -> None:
    with pytest.raises(StudyError, match="models is empty, expected at least one entry"):
        DotProductSettings(models=())
    with pytest.raises(StudyError, match="batch_sizes is empty"):
        MicroSettings(batch_sizes=())


def test_a_run_that_fails_leaves_the_settings_beside_their_tables(tmp_path: Path) -> None:
    settings = DotProductSettings(**SMALL, ranges=2, teleportations=1)
    run_study(find_study("dot-product"), settings, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    missing = DotProductSettings(**SMALL, weights=tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        run_study(find_study("dot-product"), missing, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_settings_file_whose_study_is_no_word_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "study.yml").write_text("study: [micro]\n", encoding="utf-8")
    with pytest.raises(ExperimentError, match="study: a list, expected a word"):
        load_study(tmp_path / "study.yml")


def test_an_unwritable_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot write"):
        run_study(find_study("micro"), MicroSettings(), tmp_path / "file" / "below")


def test_a_settings_file_is_plain_yaml(tmp_path: Path) -> None:
    settings = MicroSettings(**SMALL, weights=tmp_path / "w.pt")
    loaded = yaml.safe_load(settings_yaml(find_study("micro"), settings))
    assert loaded == {"study": "micro", **plain_settings(settings)}
    assert loaded["models"] == [{"cls": "mlp", "hidden_layers": [6, 5]}]
