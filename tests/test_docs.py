"""Everything that the documents tell a reader to run, is run; what needs other machines is at least parsed.

The blocks of a document run in order, in one folder with the demo models and beside a running service that watches them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cogapp import Cog
from tests.conftest import DEMO_MODELS, ROOT, Service, running

from onnxplain.model.manifest import parse_manifest
from onnxplain.settings import PREFIX, Settings
from onnxplain.web.application import create_app

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run here: [^\n]+ -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

# Files that a document makes with a library that is not installed here, and what stands in for them.
STAND_INS = {
    "resnet50.md": {"resnet50.onnx": "shapes/model.onnx", "cat.jpg": "shapes/samples/star.jpg"},
    "keras.md": {"mobilenet.onnx": "shapes/model.onnx", "cat.jpg": "shapes/samples/star.jpg"},
}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    run: bool


def blocks(document: Path) -> list[Block]:
    return [Block(m["language"], m["text"], not m["skip"]) for m in BLOCK.finditer(document.read_text())]


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(DEMO_MODELS, folder / "models")
    with running(folder / "log", models=folder / "models", watch=0.2) as service:
        yield service, folder


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_says_to_run_runs(document: Path, workbench: tuple[Service, Path]) -> None:
    service, folder = workbench
    for name, source in STAND_INS.get(document.name, {}).items():
        shutil.copy(DEMO_MODELS / source, folder / name)
    for block in blocks(document):
        text = block.text.replace("http://127.0.0.1:8000", service.url)
        match block.language:
            case "bash" if block.run:
                done = _shell(text, folder)
                assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
                _settle(service, folder)
            case "bash":
                subprocess.run(["bash", "-n"], input=text, text=True, check=True)
            case "python" if block.run:
                done = subprocess.run(
                    [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
            case "python":
                compile(text, document.name, "exec")
            case "console":
                targets = re.findall(r"^\$ make (\w+)", text, re.MULTILINE)
                assert targets
                assert set(targets) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            case "toml":
                _check_manifest(text, folder)
            case "json":
                json.loads(text)
            case language:
                assert language in ("mermaid", "text"), f"a block of {language or 'no language'} is not checked"


def _shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run lines as a reader would, but stop at the first that fails, an HTTP error included."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    strict = 'set -euo pipefail\ncurl() { command curl --fail-with-body --silent --show-error "$@"; }\n'
    return subprocess.run(
        ["bash", "-c", strict + text],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _settle(service: Service, folder: Path) -> None:
    """Wait until the service has seen every model that the block may have put into the folder."""
    wanted = {file.parent.name for file in (folder / "models").glob("*/model.onnx")}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if wanted <= {model["name"] for model in service.client.get("/v1/models").json()["models"] if model["ready"]}:
            return
        time.sleep(0.1)
    raise AssertionError(f"not all of {wanted} became ready")


def _check_manifest(text: str, folder: Path) -> None:
    document = tomllib.loads(text)
    if "classes_file" in document:
        (folder / document["classes_file"]).write_text("one label\n")
    parse_manifest(text.encode(), folder)


# What may be wider than a line of prose: generated parts, code, tables, and a line that begins with a long link or address.
WIDE = re.compile(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->|^```.*?^```$|^\|.*?$|^!?\[[^\n]*\)$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "document",
    [
        *(file for file in DOCUMENTS if file.name != "CONTRIBUTING.md"),
        ROOT / "CHANGELOG.md",
        ROOT / "openapi.md",
        ROOT / "client" / "README.md",
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_prose_has_lines_of_at_most_120_characters(document: Path) -> None:
    assert [line for line in WIDE.sub("", document.read_text()).splitlines() if len(line) > 120] == []


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "openapi.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name
)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(re.sub(r"```.*?```|<!--.*?-->", "", document.read_text(), flags=re.DOTALL)):
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
            }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_and_metrics_that_a_document_names_exist(document: Path, workbench: tuple[Service, Path]) -> None:
    text = document.read_text()
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"\bONNXPLAIN_[A-Z_]+\b", text)) - {"ONNXPLAIN_"} <= settings
    metrics = workbench[0].client.get("/metrics").text
    assert all(name in metrics for name in re.findall(r"`(onnxplain_\w+)`", text))


def test_the_readme_is_up_to_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`make fix` writes its generated part anew."""
    monkeypatch.chdir(ROOT)
    assert Cog().main(["cog", "--check", "README.md"]) == 0, capsys.readouterr().out


def _kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text()))


def test_the_kubernetes_example_asks_routes_and_sets_settings_that_exist() -> None:
    deployment = next(each for each in _kubernetes() if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    routes = create_app(Settings()).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in routes
    settings = {entry["name"]: entry.get("value") for entry in container["env"]}
    values = {name.removeprefix(PREFIX).lower(): value for name, value in settings.items() if value is not None}
    Settings(**values)
    assert {name.removeprefix(PREFIX).lower() for name in settings} <= set(Settings.model_fields)


def test_the_kubernetes_example_waits_longer_than_the_service_drains() -> None:
    pod = next(each for each in _kubernetes() if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > Settings.model_fields["drain"].default
    assert pod["enableServiceLinks"] is False
