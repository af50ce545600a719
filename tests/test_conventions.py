"""The rules of the house that no linter knows: who may import whom, and that every table is complete."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from cogapp import Cog

from onnxplain import errors
from onnxplain.api.problems import STATUS, documented
from onnxplain.autodiff import RULES, ZERO_DERIVATIVE
from onnxplain.methods import METHODS
from onnxplain.options import Options, schemas
from onnxplain.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "app" / "onnxplain"

# What anybody may know: names, facts and limits, without any work behind them.
FACTS = {
    "onnxplain",
    "onnxplain.errors",
    "onnxplain.cards",
    "onnxplain.methods",
    "onnxplain.options",
    "onnxplain.pricing",
}

# What the modules may import that run in a worker, where native libraries may crash.
WORKER_SIDE = {
    "onnxplain.engine",
    "onnxplain.logs",
    "onnxplain.model",
    "onnxplain.explainers",
    "onnxplain.images",
    "onnxplain.tables",
    "onnxplain.strict_json",
}

# Module or package -> what it may import of ours besides the facts and itself; the longest prefix counts.
ARROWS: dict[str, set[str]] = {
    "onnxplain": set(),
    "onnxplain.errors": set(),
    "onnxplain.cards": set(),
    "onnxplain.option_kinds": set(),
    "onnxplain.options": {"onnxplain.option_kinds"},
    "onnxplain.methods": set(),
    "onnxplain.pricing": set(),
    "onnxplain.strict_json": set(),
    "onnxplain.settings": set(),
    "onnxplain.main": {
        "onnxplain.settings",
        "onnxplain.api",
        "onnxplain.registry",
        "onnxplain.store",
        "onnxplain.cache",
        "onnxplain.engine.pool",
        "onnxplain.engine.task",
    },
    "onnxplain.protocol": set(),
    "onnxplain.server": {
        "onnxplain.protocol",
        "onnxplain.main",
        "onnxplain.settings",
        "onnxplain.api",
        "onnxplain.logs",
    },
    "onnxplain.cli": {
        "onnxplain.server",
        "onnxplain.settings",
        "onnxplain.engine.pool",
        "onnxplain.engine.task",
        "onnxplain.answers",
    },
    "onnxplain.client": set(),
    "onnxplain.answers": {"onnxplain.engine.task"},
    "onnxplain.logs": set(),
    "onnxplain.cache": {"onnxplain.engine.task"},
    "onnxplain.api": {
        "onnxplain.settings",
        "onnxplain.registry",
        "onnxplain.answers",
        "onnxplain.cache",
        "onnxplain.engine.pool",
        "onnxplain.engine.task",
    },
    "onnxplain.registry": {"onnxplain.engine.pool", "onnxplain.engine.task", "onnxplain.store"},
    "onnxplain.store": {"onnxplain.engine.task"},
    "onnxplain.engine": {"onnxplain.engine.task"},
    "onnxplain.engine.worker": WORKER_SIDE,
    "onnxplain.engine.explain_picture": WORKER_SIDE,
    "onnxplain.engine.picture_maps": WORKER_SIDE,
    "onnxplain.engine.explain_table": WORKER_SIDE,
    "onnxplain.engine.table_labels": WORKER_SIDE,
    "onnxplain.engine.table_warnings": WORKER_SIDE,
    "onnxplain.model": {"onnxplain.autodiff", "onnxplain.explainers"},
    "onnxplain.autodiff": set(),
    "onnxplain.explainers": set(),
    "onnxplain.images": {"onnxplain.picture_file", "onnxplain.colormaps"},
    "onnxplain.picture_file": set(),
    "onnxplain.colormaps": set(),
    "onnxplain.tables": {"onnxplain.strict_json"},
}

# Third-party packages with one home each.
HOMES: dict[str, tuple[str, ...]] = {
    "fastapi": ("onnxplain.main", "onnxplain.server", "onnxplain.protocol", "onnxplain.api"),
    "starlette": ("onnxplain.main", "onnxplain.server", "onnxplain.protocol", "onnxplain.api"),
    "uvicorn": ("onnxplain.server", "onnxplain.protocol"),
    "prometheus_client": ("onnxplain.api.metrics",),
    "opentelemetry": ("onnxplain.api.tracing",),
    "onnxruntime": ("onnxplain.model",),
    "onnx": ("onnxplain.model", "onnxplain.autodiff"),
    "PIL": ("onnxplain.images", "onnxplain.client.answers"),
    "httpx": ("onnxplain.client",),
    "click": ("onnxplain.cli",),
    "pandas": ("onnxplain.client",),
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
    forbidden = {name for name in ours if name not in FACTS and not _within(name, ARROWS[row] | {row})}
    assert not forbidden


@pytest.mark.parametrize("module", MODULES)
def test_a_third_party_package_stays_in_its_home(module: str) -> None:
    packages = {name.partition(".")[0] for name in _imports(MODULES[module])}
    assert not {name for name in packages & set(HOMES) if not _within(module, HOMES[name])}


def test_rows_name_modules_that_exist() -> None:
    named = set(ARROWS) | {module for row in ARROWS.values() for module in row}
    assert not named - set(MODULES)


@pytest.mark.parametrize("module", ["onnxplain.main", "onnxplain.server", "onnxplain.cli", "onnxplain.client"])
def test_the_web_process_holds_no_native_model_or_picture_library(module: str) -> None:
    """A picture, a table or a model file can kill a native library; that may cost one answer, never the service."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnx", "onnxruntime", "PIL", "pyarrow"} & set(loaded)


def test_importing_the_application_creates_none() -> None:
    """Neither settings nor an application exist until somebody asks for them."""
    program = "import onnxplain.main; print(any(type(value).__name__ in ('FastAPI', 'Settings') for value in vars(onnxplain.main).values()))"
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
