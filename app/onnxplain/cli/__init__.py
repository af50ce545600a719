"""The command `onnxplain`: serve models, look at a model file, explain without a server.

Click comes with uvicorn anyway. Typer brings rich along: six wheels and 15 MB more in every installation, for a few lines of colour.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import ValidationError

from onnxplain import __version__
from onnxplain.facts.errors import ExplainError
from onnxplain.settings import Settings

_EXISTING = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def main() -> None:
    """Run the command line; an error is a sentence on standard error and exit status 1."""
    try:
        command()
    except ExplainError as error:
        _fail(str(error), 1)
    except OSError as error:  # a file that may not be read, a folder that may not be written into
        _fail(f"{error.filename or 'system'}: {error.strerror or error}.", 1)


def models_option(function: Callable[..., None]) -> Callable[..., None]:
    """`--models DIR`."""
    return click.option(
        "--models", type=_FOLDER, metavar="DIR", help="Folder with one sub-folder a model. [ONNXPLAIN_MODELS]"
    )(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="onnxplain %(version)s")
def command() -> None:
    """Explanations for ONNX models: permutation importance for tables, Grad-CAM and its family for pictures."""


@command.command()
@click.option("--host", help="Address to listen on. [ONNXPLAIN_HOST]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one. [ONNXPLAIN_PORT]")
@models_option
def serve(**given: Any) -> None:
    """Start the service. Every setting is an environment variable ONNXPLAIN_*; openapi.md lists them."""
    from onnxplain.web.server import serve as run

    settings = _settings(**given)
    click.echo(_welcome(settings))
    try:
        run(settings)
    except ValueError as error:
        _fail(str(error), 2)


@command.command("models")
@models_option
def list_models(models: Path | None) -> None:
    """List the models of a folder as the service sees them."""
    from onnxplain.cli.check import show_models

    raise SystemExit(show_models(_settings(models=models)))


@command.command()
@click.argument("path", type=_EXISTING)
def check(path: Path) -> None:
    """Tell what the service makes of a model: kind, classes, layers, gradients, and what it refuses and why.

    PATH is an .onnx file, or a folder with model.onnx and perhaps model.toml.
    """
    from onnxplain.cli.check import show_model

    raise SystemExit(show_model(path, _settings()))


@command.command()
@click.argument("model")
@click.argument("file", type=_EXISTING, required=False)
@click.option("-m", "--method", help="Default: gradcam, or permutation-importance for a table.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write: .png, .json or .csv."
)
@click.option("--label", help="Column of the table that holds the true label.")
@click.option("--target", multiple=True, help="Class to explain, index or label; repeatable.")
@click.option("--layer", help="Layer to explain; `onnxplain check` lists them.")
@click.option(
    "-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="Any other option of the method; repeatable."
)
@models_option
def explain(
    model: str,
    file: Path | None,
    method: str | None,
    out: Path | None,
    label: str | None,
    target: tuple[str, ...],
    layer: str | None,
    parameter: tuple[str, ...],
    models: Path | None,
) -> None:
    """Explain a picture or a table without a server.

    MODEL is an .onnx file, a model's folder, or the name of a model in --models. FILE is a picture or a table; left out, the
    model's registered evaluation data are explained.
    """
    from onnxplain.cli.explain import run_explanation

    options: dict[str, list[str]] = {}
    for given in parameter:
        name, equals, value = given.partition("=")
        if not equals:
            _fail(f"-p {given}: write it as NAME=VALUE, such as -p n_repeats=20.", 2)
        options.setdefault(name, []).append(value)
    named = {"label": [label] if label else [], "target": list(target), "layer": [layer] if layer else []}
    options |= {name: values for name, values in named.items() if values}
    run_explanation(model, file, method, out, options, _settings(models=models))


def _settings(**given: Any) -> Settings:
    """The settings, what the command line gave winning over the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        findings = (f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors())
        _fail("; ".join(findings), 2)


def _welcome(settings: Settings) -> str:
    """Three lines to try, for those models that are there."""
    base = f"http://{settings.host}:{settings.port}"
    lines = [f"onnxplain {__version__} serves {settings.models} on {base} (page: /, Swagger: /docs). Try:"]
    if (settings.models / "shapes" / "samples" / "star.jpg").is_file():
        picture = f"-F image=@{settings.models}/shapes/samples/star.jpg -H 'Accept: image/png' -o heatmap.png"
        lines.append(f"  curl {picture} {base}/v1/models/shapes/explanations/gradcam")
    if (settings.models / "breast-cancer").is_dir():
        lines.append(f"  curl -X POST {base}/v1/models/breast-cancer/explanations/permutation-importance")
    lines.append(f"  curl {base}/v1/models")
    return "\n".join(lines)


def _fail(sentence: str, status: int) -> NoReturn:
    click.echo(f"onnxplain: {sentence}", err=True)
    raise SystemExit(status)
