"""One explanation without a server: a file in, a picture or a table out, and what it says in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.answers import importances_csv, picture_document, table_document
from app.cli.work import find, run
from app.engine.task import ExplainTask, PictureExplanation, TableExplanation
from app.errors import BadParameter, ExplainError, MethodNotApplicable, UnsupportedMediaType
from app.methods import METHODS, Method
from app.settings import Settings

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".json": "application/json",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.file",
    ".feather": "application/vnd.apache.arrow.file",
}
_WRITTEN = {"image": (".png", ".json"), "tabular": (".csv", ".json")}
_BARS = 30
_BAR_WIDTH = 28


def run_explanation(
    model: str,
    file: Path | None,
    method: str | None,
    out: Path | None,
    options: Mapping[str, list[str]],
    settings: Settings,
) -> None:
    """Explain `file` and write or draw the answer.

    Raises:
        ExplainError: what the service would answer with.
    """
    ref = find(model, settings)
    media_type = "" if file is None else _media_type(file)
    kind = "tabular" if file is None or not media_type.startswith("image/") else "image"
    chosen = _method(method, ref.path, kind, settings)
    if out is not None and out.suffix.lower() not in _WRITTEN[chosen.kind]:
        raise BadParameter(
            f"An answer of {chosen.name} is written as {' or '.join(_WRITTEN[chosen.kind])}; name OUT so."
        )
    task = ExplainTask(
        ref,
        chosen.name,
        media_type,
        b"" if file is None else file.read_bytes(),
        _shaped(chosen, options),
        limits=settings.limits(),
    )
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(chosen.title, total=1.0)
        (answer,) = run([task], settings, lambda fraction: progress.update(bar, completed=fraction))
    if isinstance(answer, ExplainError):
        raise answer
    if isinstance(answer, TableExplanation):
        document = table_document(ref, chosen.name, answer, answer.timings_ms)
        _show_importances(document)
    else:
        document = picture_document(ref, chosen.name, answer, answer.timings_ms)
        _show_picture(answer)
    if out is not None:
        _write(out, document, answer, heatmap_only=task.options.get("output") == "heatmap")


def _media_type(file: Path) -> str:
    try:
        return MEDIA_TYPES[file.suffix.lower()]
    except KeyError:
        raise UnsupportedMediaType(f"{file.name} is read by its suffix; known are {', '.join(MEDIA_TYPES)}.") from None


def _method(name: str | None, path: str, kind: str, settings: Settings) -> Method:
    """The method of that name; without one, the first that fits the model."""
    if name is not None:
        if name not in METHODS:
            raise BadParameter(f"There is no method '{name}'. Known: {', '.join(METHODS)}.")
        return METHODS[name]
    fitting = [method for method in METHODS.values() if method.kind == kind]
    if kind == "image":
        (card,) = run([ExplainTask(find(path, settings), "inspect")], settings)
        if isinstance(card, ExplainError):
            raise card
        fitting = [METHODS[explainer] for explainer in card.explainers]
    if not fitting:
        raise MethodNotApplicable(f"No method explains this model; `onnxplain check {path}` tells why.")
    return fitting[0]


def _shaped(method: Method, options: Mapping[str, list[str]]) -> dict[str, Any]:
    """Texts as the options model takes them: a list where the option is one. The worker checks them."""
    fields = method.options.model_fields
    many = {
        name for name, field in fields.items() if "tuple" in str(field.annotation) or "list" in str(field.annotation)
    }
    return {name: values if name in many else values[-1] for name, values in options.items()}


def _write(out: Path, document: dict[str, Any], answer: Any, *, heatmap_only: bool) -> None:
    match out.suffix.lower():
        case ".json":
            out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        case ".csv":
            out.write_text(importances_csv(document), newline="")
        case _:
            for number, heatmap in enumerate(answer.explanations):
                path = out if number == 0 else out.with_stem(f"{out.stem}-{number + 1}")
                path.write_bytes((heatmap.heatmap if heatmap_only else heatmap.overlay) or b"")
    Console(stderr=True).print(f"wrote {out}", markup=False)


def _show_importances(document: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    for metric, rows in document["importances"].items():
        title = f"{metric} {document['baseline'][metric]:.4g} on {document['n_rows']} rows; without a feature it loses:"
        console.print(title, markup=False, style="bold")
        ordered = sorted(rows, key=lambda row: row["mean"], reverse=True)
        longest = max((abs(row["mean"]) for row in rows), default=0.0) or 1.0
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        for row in ordered[:_BARS]:
            error = row.get("standard_error")
            spread = f"± {1.96 * error:.2g}" if error is not None else ""
            table.add_row(
                escape(row["feature"]), _bar(row["mean"] / longest), f"{row['mean']:+.4f}", f"[dim]{spread}[/]"
            )
        console.print(table)
        if len(ordered) > _BARS:
            console.print(f"… and {len(ordered) - _BARS} more; -o FILE.csv has them all.", style="dim")
    for warning in document["warnings"]:
        console.print(f"[yellow]warning[/] {escape(str(warning))}")


def _show_picture(answer: PictureExplanation) -> None:
    console = Console(highlight=False)
    explained = {heatmap.target.index for heatmap in answer.explanations}
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for prediction in answer.predictions:
        mark = "[green]explained[/]" if prediction.index in explained else ""
        share = prediction.probability
        table.add_row(
            escape(prediction.label),
            _bar(share or 0.0),
            f"{prediction.score:.4g}" if share is None else f"{share:.1%}",
            mark,
        )
    console.print(table)
    first = answer.explanations[0]
    layer = f"layer {first.layer_name} {list(first.layer_shape or ())}" if first.layer_name else "at the model's input"
    console.print(f"{layer}, gradient {answer.gradient.source}, maximum {first.maximum:.4g}", markup=False, style="dim")
    for warning in answer.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}")


def _bar(share: float) -> str:
    """A bar for -1..1, in eighths of a character; red where it is negative."""
    eighths = round(min(1.0, abs(share)) * _BAR_WIDTH * 8)
    bar = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    return f"[{'red' if share < 0 else 'cyan'}]{bar}[/]"
