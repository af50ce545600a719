"""The command line as a shell sees it: what it prints and writes, and its exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEMO_MODELS, ROOT

from onnxplain.cli.check import _facts, manifest
from onnxplain.cli.terminal import bar, safe
from onnxplain.cli.work import find, run
from onnxplain.facts.cards import GradientFact, Layer, ModelCard
from onnxplain.facts.errors import ModelNotFound
from onnxplain.facts.tasks import InspectTask
from onnxplain.model.manifest import parse_manifest
from onnxplain.settings import Settings

STAR = DEMO_MODELS / "shapes" / "samples" / "star.jpg"


def onnxplain(*arguments: Any, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ONNXPLAIN_")}
    return subprocess.run(
        [Path(sys.executable).parent / "onnxplain", *map(str, arguments)],
        cwd=ROOT,
        env=environment | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_check_says_what_a_model_is_and_what_would_be_explained() -> None:
    done = onnxplain("check", DEMO_MODELS / "shapes")
    assert done.returncode == 0
    for part in ("image model", "6 classes", "layer", "exact: every operator has a rule", "gradcam", "[image]"):
        assert part in done.stdout
    assert "\x1b" not in done.stdout  # colours are for terminals


def test_check_takes_a_bare_file_and_warns_of_what_no_graph_says(tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes((DEMO_MODELS / "shapes" / "model.onnx").read_bytes())
    done = onnxplain("check", bare)
    assert done.returncode == 0
    assert "No `mean` and `std` are set" in " ".join(done.stdout.split())


def test_check_refuses_what_is_no_model_with_a_reason_and_a_status() -> None:
    done = onnxplain("check", ROOT / "LICENSE")
    assert done.returncode == 1
    assert done.stdout.startswith("refused")
    assert "export it again" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes", "digits", "shapes"])
def test_the_manifest_that_check_prints_changes_nothing(name: str) -> None:
    """Read back, it says what was in force without it."""
    settings = Settings(models=DEMO_MODELS)
    (card,) = run([InspectTask(find(name, settings))], settings)
    read = parse_manifest(manifest(card).encode(), DEMO_MODELS / name)
    assert (read.kind, read.task, read.score_output) == (card.kind, card.task, card.score_output)
    if card.image:
        spec, told = card.image, read.image
        assert read.classes == card.classes
        assert (told.size, told.mode, told.layout, told.mean, told.std, told.fit, told.resize_to) == (
            *(spec.size, spec.mode, spec.layout, spec.mean, spec.std, spec.fit),
            spec.resize_to,
        )
        assert card.default_layer
        assert read.layer == card.default_layer.name
    if card.tabular:
        assert read.tabular.features == tuple(feature.name for feature in card.tabular.features)
        assert (read.tabular.evaluation_data, read.tabular.label) == (card.tabular.evaluation_data, card.tabular.label)


def test_check_names_the_operator_without_a_rule() -> None:
    card = ModelCard(
        **dict.fromkeys(("name", "version", "sha256", "description", "score_output"), ""),
        kind="image",
        task="classification",
        inputs=(),
        outputs=(),
        layers=(Layer("conv", (8, 4, 4), "Conv", default=True),),
        gradient=GradientFact("finite-difference", ("Hardmax at /head",)),
        explainers=("gradcam",),
    )
    facts = dict(_facts(card))
    assert "finite differences" in facts["gradient"]
    assert "Hardmax at /head" in facts["gradient"]
    assert "hirescam" in facts["refused"]


def test_models_lists_every_model_of_a_folder() -> None:
    done = onnxplain("models")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "name",
        "breast-cancer",
        "diabetes",
        "digits",
        "shapes",
    ]


def test_a_picture_is_explained_as_the_service_explains_it(tmp_path: Path, service: Any) -> None:
    """The same bytes, with and without a server."""
    out = tmp_path / "star.png"
    done = onnxplain("explain", "shapes", STAR, "--method", "gradcam", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "star" in done.stdout
    url = "/v1/models/shapes/explanations/gradcam"
    answer = service.client.post(
        url, content=STAR.read_bytes(), headers={"Content-Type": "image/jpeg", "Accept": "image/png"}
    )
    assert out.read_bytes() == answer.content


def test_several_classes_are_written_to_several_files(tmp_path: Path) -> None:
    sample = DEMO_MODELS / "shapes" / "samples" / "heart-and-triangle.png"
    out = tmp_path / "map.png"
    done = onnxplain("explain", "shapes", sample, "--target", "heart", "--target", "triangle", "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() != (tmp_path / "map-2.png").read_bytes()


def test_a_table_is_explained_as_the_service_explains_it(tmp_path: Path, service: Any) -> None:
    out = tmp_path / "importances.csv"
    done = onnxplain("explain", "diabetes", "-p", "n_repeats=3", "-p", "metrics=r2", "-p", "metrics=mae", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "bmi" in done.stdout
    assert "█" in done.stdout
    url = "/v1/models/diabetes/explanations/permutation-importance?n_repeats=3&metrics=r2&metrics=mae"
    answer = service.client.post(url, headers={"Accept": "text/csv"})
    assert list(csv.reader(io.StringIO(out.read_text()))) == list(csv.reader(io.StringIO(answer.text)))


def test_json_holds_the_whole_answer(tmp_path: Path) -> None:
    out = tmp_path / "answer.json"
    rows = DEMO_MODELS / "diabetes" / "samples" / "test.csv"
    done = onnxplain("explain", DEMO_MODELS / "diabetes", rows, "--label", "progression", "-o", out)
    assert done.returncode == 0, done.stderr
    answer = json.loads(out.read_text())
    assert len(answer["importances"]["r2"]) == 10
    assert len(answer["model"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("explain", "shapes", STAR, "-p", "alph=1"), "alph is not a parameter of this method."),
        (("explain", "shapes", STAR, "-p", "alpha=2"), "alpha must be a number from 0 to 1."),
        (("explain", "shapes", STAR, "-m", "gradcamm"), "There is no method 'gradcamm'"),
        (("explain", "shapes", STAR, "-o", "x.gif"), "written as .png or .json"),
        (("explain", "shapes", STAR, "-o", "no/such/folder/x.png"), "no/such/folder is no folder to write x.png into"),
        (("explain", "shapes", STAR, "-o", "/proc/x.png"), "/proc/x.png: No such file"),
        (("explain", "shapes"), "takes pictures: name the one to explain"),
        (("explain", "shapes", ROOT / "README.md"), "known are .png"),
        (("explain", "shapes", STAR, "--layer", "nowhere"), "nowhere"),
        (("explain", "diabetes", STAR, "-m", "gradcam"), "permutation-importance"),
        (("explain", "nothing", STAR), "is neither an .onnx file nor a folder"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(arguments: tuple[Any, ...], sentence: str) -> None:
    done = onnxplain(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("onnxplain: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (("serve", "--host", "0.0.0.0"), {}, "ONNXPLAIN_API_KEYS"),
        (("serve", "--port", "99999"), {}, "port"),
        (("serve",), {"ONNXPLAIN_WORKERS": "none"}, "workers"),
        (("explain", "shapes", STAR, "-p", "alpha"), {}, "NAME=VALUE"),
    ],
)
def test_wrong_usage_has_status_two(arguments: tuple[Any, ...], settings: dict[str, str], sentence: str) -> None:
    done = onnxplain(*arguments, **settings)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_is_found_by_path_before_name(tmp_path: Path) -> None:
    settings = Settings(models=DEMO_MODELS)
    assert find("shapes", settings).path == str(DEMO_MODELS / "shapes")
    assert find(str(DEMO_MODELS / "shapes" / "model.onnx"), settings).name == "model"
    with pytest.raises(ModelNotFound):
        find(str(tmp_path), settings)


def test_a_bar_is_as_long_as_its_share_to_an_eighth_of_a_character() -> None:
    assert bar(1.0).count("█") == 28
    assert bar(0.5).count("█") == 14
    assert bar(-0.5).count("█") == 14
    assert "█" not in bar(0.0)
    assert "▏" in bar(1 / (28 * 8))


def test_names_cannot_steer_the_terminal() -> None:
    assert safe("\x1b[31mred\r\n") == "�[31mred��"
