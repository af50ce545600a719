"""The rules of the house that no linter knows: who may import whom, and that every table is complete."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from http import HTTPStatus
from pathlib import Path

import pytest
from cogapp import Cog

from onnxplain.autodiff import RULES, ZERO_DERIVATIVE
from onnxplain.facts import errors
from onnxplain.facts.methods import METHODS
from onnxplain.facts.metrics import METRIC_NAMES
from onnxplain.facts.options import Options, schemas
from onnxplain.settings import PREFIX, Settings
from onnxplain.web.problems import STATUS, documented

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "app" / "onnxplain"

# Room -> the rooms that it may import besides the facts and itself; the longest name counts. Facts are names, cards and
# limits without any work behind them: every room may know them.
ARROWS: dict[str, set[str]] = {
    "onnxplain": set(),
    "onnxplain.facts": set(),
    "onnxplain.settings": set(),
    "onnxplain.logs": set(),
    "onnxplain.autodiff": set(),
    "onnxplain.explainers": set(),
    "onnxplain.pictures": set(),
    "onnxplain.tables": set(),
    "onnxplain.model": {"onnxplain.autodiff", "onnxplain.explainers"},
    "onnxplain.explain": {"onnxplain.model", "onnxplain.explainers", "onnxplain.pictures", "onnxplain.tables"},
    "onnxplain.workers": set(),
    "onnxplain.workers.worker": {"onnxplain.explain", "onnxplain.model", "onnxplain.workers", "onnxplain.logs"},
    "onnxplain.registry": {"onnxplain.workers"},
    "onnxplain.web": {"onnxplain.registry", "onnxplain.workers", "onnxplain.settings", "onnxplain.logs"},
    "onnxplain.cli": {
        "onnxplain.web",
        "onnxplain.registry",
        "onnxplain.workers",
        "onnxplain.settings",
        "onnxplain.logs",
    },
}
# Third-party packages with one home each.
HOMES: dict[str, tuple[str, ...]] = {
    "fastapi": ("onnxplain.web",),
    "starlette": ("onnxplain.web",),
    "uvicorn": ("onnxplain.web.server", "onnxplain.web.protocol"),
    "prometheus_client": ("onnxplain.web.metrics", "onnxplain.web.routes.health"),
    "opentelemetry": ("onnxplain.web.around.tracing",),
    "onnxruntime": ("onnxplain.model.runtime",),
    "onnx": ("onnxplain.model", "onnxplain.autodiff"),
    "PIL": ("onnxplain.pictures",),
    "httpx": (),
    "click": ("onnxplain.cli",),
    "pandas": (),
}


def _modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


MODULES = dict(_modules())


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: import by the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def _within(module: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _row(module: str) -> str:
    return max((key for key in ARROWS if _within(module, (key,))), key=len)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    row = _row(module)
    assert row != "onnxplain" or module == "onnxplain", f"{module} has no row in ARROWS: say what it may import"
    ours = {name for name in _imports(MODULES[module]) if _within(name, ("onnxplain",))}
    allowed = ARROWS[row] | {row, "onnxplain.facts"}
    forbidden = {name for name in ours if name != "onnxplain" and not _within(name, allowed)}
    assert not forbidden


def test_rooms_are_few_and_can_be_held_in_the_head() -> None:
    """A newcomer can learn sixteen rows by heart, and see a room of twelve files at a glance."""
    files: dict[Path, int] = {}
    for file in MODULES.values():
        files[file.parent] = files.get(file.parent, 0) + (file.name != "__init__.py")
    assert len(ARROWS) <= 16
    assert {str(room): count for room, count in files.items() if count > 12} == {}


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports that wait in a function until they are needed count too."""
    imported = {module: {name for name in _imports(file) if name in MODULES} for module, file in MODULES.items()}
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_a_third_party_package_stays_in_its_home(module: str) -> None:
    packages = {name.partition(".")[0] for name in _imports(MODULES[module])}
    assert not {name for name in packages & set(HOMES) if not _within(module, HOMES[name])}


def test_rows_name_modules_that_exist() -> None:
    named = set(ARROWS) | {module for row in ARROWS.values() for module in row}
    assert not named - set(MODULES)


@pytest.mark.parametrize(
    "module", ["onnxplain.web.application", "onnxplain.web.server", "onnxplain.cli", "onnxplain_client"]
)
def test_the_web_process_holds_no_native_model_or_picture_library(module: str) -> None:
    """A picture, a table or a model file can kill a native library; that may cost one answer, never the service."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnx", "onnxruntime", "PIL", "pyarrow"} & set(loaded)


def test_importing_the_application_creates_none() -> None:
    """Neither settings nor an application exist until somebody asks for them."""
    program = "import onnxplain.web.application; print(any(type(value).__name__ in ('FastAPI', 'Settings') for value in vars(onnxplain.web.application).values()))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ExplainError)]


def test_every_error_has_a_status() -> None:
    assert set(STATUS) == set(ERRORS)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_crosses_the_process_boundary_whole(kind: type[errors.ExplainError]) -> None:
    error = kind("What was expected, what came, what to do.")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (kind, str(error), vars(error))


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if not kind.__subclasses__()], ids=lambda kind: kind.__name__)
def test_an_error_stands_in_the_tree_with_its_own_code_and_sentence(kind: type[errors.ExplainError]) -> None:
    (line,) = re.findall(rf"── {kind.__name__}\s+(.+)", errors.__doc__ or "")
    assert line
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert "code" in vars(kind)
    assert "title" in vars(kind)
    assert (kind.__doc__ or "").startswith(line[0].upper())


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in ERRORS if "code" in vars(kind)]
    assert len(codes) == len(set(codes))


def test_only_the_unforeseen_is_a_500() -> None:
    assert {kind for kind, status in STATUS.items() if status == HTTPStatus.INTERNAL_SERVER_ERROR} == {
        errors.ExplainError
    }


def test_a_documented_error_shows_an_example_of_itself() -> None:
    leaves = [kind for kind in ERRORS if not kind.__subclasses__()]
    responses = documented(*leaves)
    for kind in leaves:
        example = responses[STATUS[kind]]["content"]["application/problem+json"]["examples"][kind.code]
        assert example["value"]["code"] == kind.code


@pytest.mark.parametrize("name", METHODS)
def test_a_method_tells_what_it_is_and_where_it_comes_from(name: str) -> None:
    method = METHODS[name]
    assert name == method.name
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert method.summary.endswith(".")
    assert method.formula
    assert method.paper
    assert issubclass(method.options, Options)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_a_method_is_described(name: str) -> None:
    missing = {option for option, field in schemas(METHODS[name].options).items() if not field["description"]}
    assert not missing


def test_the_page_offers_the_metrics_that_there_are() -> None:
    script = (SOURCE / "static" / "page" / "table.js").read_text()
    for task, names in METRIC_NAMES.items():
        (listed,) = re.findall(rf"^  {task}: \[(.*)\],$", script, re.MULTILINE)
        assert tuple(re.findall(r'"(\w+)"', listed)) == names


def test_the_interface_document_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make fix` writes it anew."""
    monkeypatch.chdir(ROOT)
    assert Cog().main(["cog", "--check", "-I", str(ROOT), "openapi.md"]) == 0, capsys.readouterr().out


def _documented() -> set[str]:
    return set(re.findall(r"`([^`\s]+)`", (ROOT / "openapi.md").read_text()))


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("method", set(METHODS)),
        ("setting", {PREFIX + name.upper() for name in Settings.model_fields}),
        ("error", {kind.code for kind in ERRORS if not kind.__subclasses__()}),
        ("operator", set(RULES) | ZERO_DERIVATIVE),
    ],
)
def test_every_name_stands_in_the_interface_document(what: str, names: set[str]) -> None:
    assert not names - _documented()
