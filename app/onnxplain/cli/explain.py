"""One explanation without a server: a file in, a picture or a table out, and what it says in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from onnxplain.cli.terminal import bar, dim, safe, table
from onnxplain.cli.work import find, run
from onnxplain.facts.documents import importances_csv, picture_document, table_document
from onnxplain.facts.errors import BadParameter, ExplainError, MethodNotApplicable, UnsupportedMediaType
from onnxplain.facts.methods import METHODS, Method
from onnxplain.facts.options import from_texts
from onnxplain.facts.tasks import ExplainTask, Importance, PermutationExplanation, PictureExplanation, Prediction
from onnxplain.settings import Settings

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
    picture = media_type.startswith("image/")
    chosen = _method(method or ("gradcam" if picture else "permutation-importance"))
    if out is not None and out.suffix.lower() not in _WRITTEN[chosen.kind]:
        raise BadParameter(
            f"An answer of {chosen.name} is written as {' or '.join(_WRITTEN[chosen.kind])}; name OUT so."
        )
    if out is not None and not out.parent.is_dir():
        raise BadParameter(f"{out.parent} is no folder to write {out.name} into; make it first.")
    task = ExplainTask(
        ref,
        chosen.name,
        media_type,
        b"" if file is None else file.read_bytes(),
        from_texts(chosen.options, options),
        limits=settings.limits(),
    )
    with click.progressbar(
        length=1000, label=chosen.title, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as progress:
        (answer,) = run([task], settings, lambda fraction: progress.update(round(fraction * 1000) - progress.pos))
        progress.update(1000 - progress.pos)
    if file is None and isinstance(answer, MethodNotApplicable):
        raise BadParameter(
            f"Model '{ref.name}' takes pictures: name the one to explain, as in `onnxplain explain {model} FILE`."
        )
    if isinstance(answer, ExplainError):
        raise answer
    if isinstance(answer, PermutationExplanation):
        document = table_document(ref, chosen.name, answer, answer.timings_ms)
        _show_importances(answer)
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


def _method(name: str) -> Method:
    if name not in METHODS:
        raise BadParameter(f"There is no method '{name}'. Known: {', '.join(METHODS)}.")
    return METHODS[name]


def _write(out: Path, document: dict[str, Any], answer: Any, *, heatmap_only: bool) -> None:
    match out.suffix.lower():
        case ".json":
            out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        case ".csv":
            out.write_text(importances_csv(answer), newline="")
        case _:
            for number, heatmap in enumerate(answer.explanations):
                path = out if number == 0 else out.with_stem(f"{out.stem}-{number + 1}")
                path.write_bytes((heatmap.heatmap if heatmap_only else heatmap.overlay) or b"")
    click.echo(f"wrote {out}", err=True)


def _show_importances(answer: PermutationExplanation) -> None:
    for metric, found in answer.importances.items():
        baseline = answer.baseline[metric]
        shown = "not a number" if baseline is None else f"{baseline:.4g}"
        click.secho(f"{metric} {shown} on {answer.n_rows} rows; without a feature it loses:", bold=True)
        known = [(each.mean, each) for each in found if each.mean is not None]
        known.sort(key=lambda pair: pair[0], reverse=True)
        longest = max((abs(mean) for mean, _ in known), default=0.0) or 1.0
        table([_importance(each, mean, longest) for mean, each in known[:_BARS]])
        if len(known) > _BARS:
            click.echo(dim(f"… and {len(known) - _BARS} more; -o FILE.csv has them all."))
    _show_warnings(answer.warnings)


def _importance(each: Importance, mean: float, longest: float) -> tuple[str, ...]:
    error = each.standard_error
    spread = "" if error is None else dim(f"± {1.96 * error:.2g}")
    return safe(each.feature), bar(mean / longest), f"{mean:+.4f}", spread


def _show_picture(answer: PictureExplanation) -> None:
    explained = {heatmap.target.index for heatmap in answer.explanations}
    table([_prediction(each, explained=each.index in explained) for each in answer.predictions])
    first = answer.explanations[0]
    layer = f"layer {first.layer_name} {list(first.layer_shape or ())}" if first.layer_name else "at the model's input"
    click.echo(dim(safe(f"{layer}, gradient {answer.gradient.source}, maximum {first.maximum:.4g}")))
    _show_warnings(answer.warnings)


def _prediction(prediction: Prediction, *, explained: bool) -> tuple[str, ...]:
    share = prediction.probability
    number = f"{prediction.score:.4g}" if share is None else f"{share:.1%}"
    return safe(prediction.label), bar(share or 0.0), number, click.style("explained", fg="green") if explained else ""


def _show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(f"{click.style('warning', fg='yellow')} {safe(warning)}")
