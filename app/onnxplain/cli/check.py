"""What the service makes of a model, in a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from onnxplain.cli.terminal import dim, facts, safe, table
from onnxplain.cli.work import find, run
from onnxplain.facts.cards import ImageSpec, ModelCard, TensorFact
from onnxplain.facts.errors import ExplainError
from onnxplain.facts.methods import METHODS
from onnxplain.facts.tasks import InspectTask
from onnxplain.settings import Settings

_OTHER_LAYERS = 6
_SHOWN = 8
_LISTED = 32  # classes in a manifest; more belong into a file


def show_models(settings: Settings) -> int:
    """Print every model of the folder, one a line; the exit status is 1 if one of them is refused."""
    names = sorted(file.parent.name for file in settings.models.glob("*/model.onnx") if file.is_file())
    if not names:
        click.echo(f"{settings.models} holds no model. Put one at {settings.models}/NAME/model.onnx.")
        return 0
    answers = run([InspectTask(find(name, settings)) for name in names], settings)
    head = ("name", "kind", "task", "answers", "gradient", "explainers")
    table([[click.style(name, bold=True) for name in head], *map(_line, names, answers)])
    return int(any(isinstance(card, ExplainError) for card in answers))


def _line(name: str, card: ModelCard | ExplainError) -> tuple[str, ...]:
    if isinstance(card, ExplainError):
        return safe(name), click.style("refused", fg="red"), safe(str(card)), "", "", ""
    answers = _plural(len(card.classes), "class", "classes") if card.classes else card.score_output
    source = card.gradient.source if card.kind == "image" else ""
    return safe(name), card.kind, card.task, safe(answers), source, str(len(card.explainers))


def show_model(path: Path, settings: Settings) -> int:
    """Print what a model file is and what could be explained; the exit status is 1 if it is refused."""
    (card,) = run([InspectTask(find(str(path), settings))], settings)
    if isinstance(card, ExplainError):
        facts([(click.style("refused", fg="red"), safe(str(card)))])
        return 1
    classes = f" · {_plural(len(card.classes), 'class', 'classes')}" if card.classes else ""
    click.echo(f"{click.style(safe(str(path)), fg='green', bold=True)} · {card.kind} model · {card.task}{classes}")
    facts(list(_facts(card)))
    click.echo("\nWhat the graph does not say stands in model.toml beside model.onnx; now in force:")
    click.secho(manifest(card), fg="cyan")
    return 0


def _facts(card: ModelCard) -> Iterable[tuple[str, str]]:
    for tensor in card.inputs:
        yield "input", safe(_tensor(tensor))
    if card.kind == "image":
        yield "explained", safe(card.score_output) + dim(" (scores before softmax or sigmoid)")
    else:
        yield "output", safe(", ".join(map(_tensor, card.outputs)))
    if card.classes:
        yield "classes", _some(card.classes)
    if card.tabular:
        yield "columns", _some([f"{feature.name} ({feature.dtype})" for feature in card.tabular.features])
    layer = card.default_layer
    if layer:
        yield "layer", f"{click.style(safe(layer.name), fg='green')} {_shape(layer.shape)} {dim(safe(layer.reason))}"
    others = [other for other in card.layers if other is not layer]
    if others:
        shown = ", ".join(f"{safe(other.name)} {_shape(other.shape)}" for other in others[-_OTHER_LAYERS:])
        yield "or", shown + (dim(f" and {len(others) - _OTHER_LAYERS} more") if len(others) > _OTHER_LAYERS else "")
    if card.kind == "image":
        yield "gradient", _gradient(card)
    yield "explainers", ", ".join(card.explainers) or click.style("none", fg="red")
    refused = [method for method in METHODS.values() if method.kind == card.kind and method.name not in card.explainers]
    if refused:
        yield "refused", f"{', '.join(method.name for method in refused)} {dim(_why_refused(card))}"
    if card.forward_ms:
        yield "cost", f"{card.forward_ms:.3g} ms a {'picture' if card.kind == 'image' else 'row'}"
    for warning in card.warnings:
        yield click.style("warning", fg="yellow"), safe(warning)


def _gradient(card: ModelCard) -> str:
    missing = safe("; ".join(card.gradient.missing_rules[:5])) + ("; …" if len(card.gradient.missing_rules) > 5 else "")
    through = " Quantisation steps are passed with slope one." if card.gradient.straight_through else ""
    match card.gradient.source:
        case "exact" if missing:
            return f"{click.style('exact', fg='green')} from the default layer on; before it no rule for {missing}.{through}"
        case "exact":
            return f"{click.style('exact', fg='green')}: every operator has a rule.{through}"
        case "finite-difference":
            return f"{click.style('finite differences', fg='yellow')}: no rule for {missing}"
        case _:
            return (
                f"{click.style('none', fg='red')}: no layer to explain{f'; no rule for {missing}' if missing else ''}"
            )


def _why_refused(card: ModelCard) -> str:
    if not card.layers:
        return "no tensor with height and width lies on the way to the score"
    if card.gradient.missing_rules:
        return "they need the gradient, and operators without a rule are in the way"
    return "they need something that this model does not have"


def _some(texts: Sequence[str]) -> str:
    more = dim(f" and {len(texts) - _SHOWN} more") if len(texts) > _SHOWN else ""
    return safe(", ".join(texts[:_SHOWN])) + more


def _tensor(tensor: TensorFact) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name} {tensor.dtype}[{shape}]"


def _shape(shape: Iterable[int]) -> str:
    return "[" + " x ".join(map(str, shape)) + "]"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def manifest(card: ModelCard) -> str:
    """The manifest that says what is in force for a model, as TOML to be changed and kept."""
    lines = [f'kind = "{card.kind}"', f'task = "{card.task}"']
    if len(card.classes) > _LISTED:
        lines.append('# classes_file = "classes.txt"  # labels, one a line')
    elif card.classes:
        lines.append(f"classes = {_list(card.classes)}")
    lines.append(f"score_output = {_text(card.score_output)}")
    if card.image:
        lines += ["", "[image]", *_image(card.image)]
    if card.tabular:
        lines += ["", "[tabular]", f"features = {_list(feature.name for feature in card.tabular.features)}"]
        lines.append(
            f"evaluation_data = {_text(card.tabular.evaluation_data)}"
            if card.tabular.evaluation_data
            else '# evaluation_data = "samples/test.csv"'
        )
        lines.append(f"label = {_text(card.tabular.label)}" if card.tabular.label else '# label = "target"')
    if card.default_layer:
        lines += ["", "[gradcam]", f"layer = {_text(card.default_layer.name)}"]
    return "\n".join(lines)


def _image(spec: ImageSpec) -> Iterable[str]:
    yield f"size = {list(spec.size)}"
    yield f'mode = "{spec.mode}"'
    yield f'layout = "{spec.layout}"'
    yield f"scale = {spec.scale}"
    yield f"mean = {list(spec.mean)}"
    yield f"std = {list(spec.std)}"
    yield f'fit = "{spec.fit}"'
    if spec.resize_to is not None:
        yield f"resize_to = {spec.resize_to}"


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(map(_text, texts)) + "]"


def _text(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
