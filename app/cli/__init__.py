"""The command `onnxplain`: serve models, look at a model file, explain without a server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from app import __version__
from app.errors import ExplainError
from app.settings import Settings

command = typer.Typer(
    name="onnxplain",
    help="Explanations for ONNX models: permutation importance for tables, Grad-CAM and its family for pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Models = Annotated[
    Path | None, typer.Option("--models", metavar="DIR", help="Folder with one sub-folder a model. [ONNXPLAIN_MODELS]")
]


def main() -> None:
    """Run the command line; a domain error is a sentence on standard error and exit status 1."""
    try:
        command()
    except ExplainError as error:
        _fail(str(error), 1)


@command.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        print(f"onnxplain {__version__}")
        raise typer.Exit


@command.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [ONNXPLAIN_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [ONNXPLAIN_PORT]")] = None,
    models: Models = None,
) -> None:
    """Start the service. Every setting is an environment variable ONNXPLAIN_*; openapi.md lists them."""
    from app.server import serve as run

    settings = _settings(host=host, port=port, models=models)
    print(_welcome(settings), flush=True)
    try:
        run(settings)
    except ValueError as error:
        _fail(str(error), 2)


@command.command("models")
def list_models(models: Models = None) -> None:
    """List the models of a folder as the service sees them."""
    from app.cli.check import show_models

    raise typer.Exit(show_models(_settings(models=models)))


@command.command()
def check(
    path: Annotated[Path, typer.Argument(help="An .onnx file, or a folder with model.onnx and perhaps model.toml.")],
) -> None:
    """Tell what the service makes of a model: kind, classes, layers, gradients, and what it refuses and why."""
    from app.cli.check import show_model

    raise typer.Exit(show_model(path, _settings()))


@command.command()
def explain(
    model: Annotated[str, typer.Argument(help="An .onnx file, a model's folder, or the name of a model in --models.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="A picture, or a table. Left out: the model's registered evaluation data.", exists=True),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Default: the model's first explainer.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .png, .json, or .csv for a table.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the table that holds the true label.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Class to explain, index or label; repeatable.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to explain; `onnxplain check` lists them.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Any other option of the method; repeatable."),
    ] = None,
    models: Models = None,
) -> None:
    """Explain a picture or a table without a server."""
    from app.cli.explain import run_explanation

    options: dict[str, list[str]] = {}
    for given in parameter or ():
        name, equals, value = given.partition("=")
        if not equals:
            _fail(f"-p {given}: write it as NAME=VALUE, such as -p n_repeats=20.", 2)
        options.setdefault(name, []).append(value)
    named = {"label": [label] if label else None, "target": target, "layer": [layer] if layer else None}
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
    typer.echo(f"onnxplain: {sentence}", err=True)
    raise SystemExit(status)
