"""What a picture model's graph says: its input and size, its scores and classes, and the shape of every tensor."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxplain.facts.cards import ImageSpec, TensorFact
from onnxplain.facts.errors import ModelRefused
from onnxplain.model.graphs.graph import BATCH, Graph, trim
from onnxplain.model.graphs.shapes import Shapes, known, loses_the_batch, write_shapes
from onnxplain.model.manifest import MANIFEST, Manifest
from onnxplain.model.meaning.scores import FLOATS, Activation, find_score

SCORES = "onnxplain_scores"
PICTURE = "onnxplain_picture"
DEFAULT_SIZE = (224, 224)
WHOLE = frozenset({TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64})  # element types of pixels as they are
_MOVING = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Cast"})
_LEVELS = (255.0, 256.0, 127.5, 128.0)  # what pixels are divided by
_CLASS_KEYS = ("classes", "class_names", "labels", "names")


@dataclass(frozen=True)
class PictureGraph:
    """A picture model in the form that sessions are made of: one float32 input, one float32 output `[n, k]`.

    Attributes:
        graph: index over the model; its tensors carry the shapes that were found.
        source, score: names of the input and of the scores.
        activation: what makes probabilities of scores.
        spec: how a picture becomes the input.
        classes: one label a score.
        batched: whether one run can take several pictures, as far as shapes tell.
        warnings: what a user should know.
    """

    graph: Graph
    source: str
    score: str
    activation: Activation
    spec: ImageSpec
    classes: tuple[str, ...]
    batched: bool
    warnings: tuple[str, ...]


def tensor_facts(values: Sequence[ValueInfoProto]) -> tuple[TensorFact, ...]:
    """Names, element types and shapes of inputs or outputs, as a card shows them."""
    facts = []
    for value in values:
        kind = value.type.tensor_type
        dtype = (
            TensorProto.DataType.Name(kind.elem_type).lower()
            if kind.elem_type
            else value.type.WhichOneof("value") or "unknown"
        )
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
        facts.append(TensorFact(value.name, dtype, shape))
    return tuple(facts)


def picture_graph(model: ModelProto, manifest: Manifest, *, batched: bool = True) -> PictureGraph:
    """Inspect and prepare a picture model; changes `model` in place.

    Args:
        model: in the loading dialect.
        manifest: what is said of it from outside.
        batched: False to treat it as a model that takes one picture at a time.

    Raises:
        ModelRefused: it takes or gives something else than pictures and scores; the message says what to add.
    """
    value = _picture_input(model)
    spec, warnings = image_spec(Graph(model), value, manifest)
    if value.type.tensor_type.elem_type in WHOLE:
        _take_whole_numbers_as_floats(model, value)
    fact, warning = find_score(Graph(model), manifest.score_output)
    trim(model, [ValueInfoProto(name=fact.tensor)])  # what lies behind the scores need not be run
    source = _float_input(model, value)
    batch = value.type.tensor_type.shape.dim[0].dim_value
    for open_batch in (True, False) if batched else (False,):
        if not open_batch and batch > 1:  # run on one picture, it might pass, and mix its places
            raise ModelRefused(
                f"The model takes {batch} pictures at once, and its graph holds that number in several places; export it with a batch "
                "of one, or with one left open."
            )
        _fix_input_shape(model, source, spec, open_batch=open_batch)
        shapes = Shapes(model, source, fact.tensor)
        extents = shapes.extents(fact.tensor)
        grows = extents is not None and any(axis is not None and len(set(axis)) > 1 for axis in extents)
        if grows and not loses_the_batch(model, shapes):
            break
    if extents is None or not known(extents):
        raise ModelRefused(
            f"The shape of the scores '{fact.tensor}' cannot be told from the graph; simplify the model, "
            "or name another tensor as `score_output` in model.toml."
        )
    write_shapes(model, shapes)
    score, count = _score_rows(
        model, fact.tensor, tuple(axis[0] for axis in extents if axis), shapes.dtype(fact.tensor)
    )
    classes, note = _classes(model, manifest, count)
    return PictureGraph(
        Graph(model),
        source,
        score,
        _activation(fact.activation, count, manifest),
        spec,
        classes,
        open_batch,
        tuple(text for text in (*warnings, warning, note) if text),
    )


def image_spec(graph: Graph, value: ValueInfoProto, manifest: Manifest) -> tuple[ImageSpec, list[str]]:
    """How a picture becomes the input: the manifest's word, else what the graph says, else a default with a warning."""
    told, warnings = manifest.image, []
    shape = graph.shape(value.name)
    if shape is None or len(shape) != 4:
        raise ModelRefused(
            f"The input '{value.name}' of a picture model must be 4-D, [n, c, h, w] or [n, h, w, c]; it has the shape {shape}. "
            'Say kind = "tabular" in model.toml if it takes a table.'
        )
    layout = told.layout or (
        "NHWC" if shape[1] not in {1, 3} and shape[3] in {1, 3} else _layout_by_first_node(graph, value.name)
    )
    channels, height, width = (shape[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    if isinstance(channels, int) and channels not in {1, 3}:
        raise ModelRefused(f"The input '{value.name}' has {channels} channels; pictures have 1 (grey) or 3 (colour).")
    mode = told.mode or ("L" if channels == 1 else "RGB")
    if isinstance(channels, int) and channels != (1 if mode == "L" else 3):
        raise ModelRefused(
            f'mode = "{mode}" does not fit the {channels} channels of the input; correct it in model.toml.'
        )
    size = told.size
    fixed = (height, width)
    if size is None:
        size = DEFAULT_SIZE
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            size = (height, width)
        else:
            warnings.append(
                f"The graph leaves the picture's size open; {size[0]} x {size[1]} is used. Set `size` under [image]."
            )
    elif any(isinstance(side, int) and side > 0 and side != wanted for side, wanted in zip(fixed, size, strict=True)):
        raise ModelRefused(
            f"`size` is {list(size)}, but the graph takes pictures of {list(fixed)}; correct it in model.toml."
        )
    depth = 1 if mode == "L" else 3
    for key, numbers in (("mean", told.mean), ("std", told.std)):
        if numbers is not None and len(numbers) not in {1, depth}:
            raise ModelRefused(
                f"`{key}` has {len(numbers)} numbers, but the model takes {depth} channels; correct it in model.toml."
            )
    scale = told.scale or (
        1.0 if graph.element_type(value.name) in WHOLE or _divides_itself(graph, value.name) else 255.0
    )
    if told.mean is None and told.std is None and scale != 1:
        warnings.append(f"No `mean` and `std` are set under [image]: pixels are only divided by {scale:g}.")
    mean, std = ((n * depth if len(n) == 1 else n) for n in (told.mean or (0.0,), told.std or (1.0,)))
    return ImageSpec(size, mode, layout, scale, mean, std, told.fit, told.resize_to), warnings


def _divides_itself(graph: Graph, name: str) -> bool:
    """Whether the graph first of all divides its input by 255 or the like, and so takes pixels as they are."""
    for node in graph.consumers.get(name, ()):
        numbers = [numpy_helper.to_array(graph.weights[n]) for n in node.input if n in graph.weights]
        factor = float(numbers[0].item()) if numbers and numbers[0].size == 1 and numbers[0].item() > 0 else 0.0
        divisor = {"Div": factor, "Mul": 1 / factor if factor else 0.0}.get(node.op_type, 0.0)
        if any(math.isclose(divisor, level, rel_tol=1e-5) for level in _LEVELS):
            return True
        if node.op_type in _MOVING and any(_divides_itself(graph, output) for output in node.output):
            return True
    return False


def _layout_by_first_node(graph: Graph, name: str) -> Literal["NCHW", "NHWC"]:
    """A graph whose input is first of all transposed to channels first takes channels last."""
    for node in graph.consumers.get(name, ()):
        permutation = [list(a.ints) for a in node.attribute if a.name == "perm"]
        if node.op_type == "Transpose" and permutation == [[0, 3, 1, 2]]:
            return "NHWC"
    return "NCHW"


def _picture_input(model: ModelProto) -> ValueInfoProto:
    inputs = Graph(model).inputs
    if len(inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in inputs)
        raise ModelRefused(
            f"A picture model has one input; this one has {len(inputs)} ({names}). Export it with the picture alone."
        )
    if inputs[0].type.tensor_type.elem_type not in FLOATS | WHOLE:
        raise ModelRefused(
            f"The input '{inputs[0].name}' of a picture model must hold numbers from 0 to 255 or floating point numbers; "
            "export it with such an input."
        )
    return inputs[0]


def _take_whole_numbers_as_floats(model: ModelProto, value: ValueInfoProto) -> None:
    """Let an input of whole numbers take float32, in place: the same numbers, but with a gradient.

    Until the graph makes floating point numbers of them, it may only move them, which it does with floats just as well.
    """
    graph, waiting = Graph(model), [value.name]
    retyped = {value.name}
    while waiting:
        name = waiting.pop()
        for node in graph.consumers.get(name, ()):
            floats = node.op_type == "Cast" and all(a.i in FLOATS for a in node.attribute if a.name == "to")
            if floats or node.op_type == "Shape":
                continue
            if node.op_type not in _MOVING - {"Cast"} or name in node.input[1:]:
                raise ModelRefused(
                    f"The operator {node.op_type} at node '{node.name or node.output[0]}' computes with the whole numbers of the input "
                    f"'{value.name}', which have no gradient; export the model with a cast to float before it."
                )
            waiting += set(node.output) - retyped
            retyped |= set(node.output)
    kept = [known for known in model.graph.value_info if known.name not in retyped]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    value.type.tensor_type.elem_type = TensorProto.FLOAT


def _float_input(model: ModelProto, value: ValueInfoProto) -> str:
    """Name of the float32 input; where the graph wants another precision, a cast is put behind it."""
    wanted = value.type.tensor_type.elem_type
    if wanted == TensorProto.FLOAT:
        return value.name
    nodes = [helper.make_node("Cast", [PICTURE], [value.name], name=PICTURE, to=wanted), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return PICTURE


def _fix_input_shape(model: ModelProto, source: str, spec: ImageSpec, *, open_batch: bool) -> None:
    depth = 1 if spec.mode == "L" else 3
    sides = (depth, *spec.size) if spec.layout == "NCHW" else (*spec.size, depth)
    del model.graph.input[:]
    model.graph.input.append(
        helper.make_tensor_value_info(source, TensorProto.FLOAT, [BATCH if open_batch else 1, *sides])
    )


def _score_rows(model: ModelProto, tensor: str, lengths: tuple[int, ...], dtype: int | None) -> tuple[str, int]:
    """Make the scores float32 `[n, k]`, by a cast and a flattening where they are not; their name and k."""
    count = math.prod(lengths)
    if len(lengths) > 2 and sorted(lengths)[-2] > 1:
        raise ModelRefused(
            f"The scores '{tensor}' have the shape {list(lengths)} for one picture, not one row of numbers; "
            "name a tensor with one as `score_output` in model.toml, or export the model with such an end: of a segmentation, the "
            "mean of each class over all places; of a detector, the classes of one box."
        )
    name = tensor
    if dtype != TensorProto.FLOAT:
        model.graph.node.append(
            helper.make_node("Cast", [name], [f"{SCORES}_cast"], name=f"{SCORES}_cast", to=TensorProto.FLOAT)
        )
        name = f"{SCORES}_cast"
    if len(lengths) != 2:
        rows = helper.make_tensor(f"{SCORES}_rows", TensorProto.INT64, [2], [-1, count])
        model.graph.initializer.append(rows)
        model.graph.node.append(helper.make_node("Reshape", [name, rows.name], [SCORES], name=SCORES))
        name = SCORES
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, count]))
    return name, count


def _activation(found: Activation | None, count: int, manifest: Manifest) -> Activation:
    if manifest.task == "regression":
        return "none"
    return found or ("softmax" if count > 1 else "sigmoid")


def _classes(model: ModelProto, manifest: Manifest, count: int) -> tuple[tuple[str, ...], str]:
    """One label a score: the manifest's, else those that an exporter left in the metadata, else the numbers."""
    if manifest.classes:
        if len(manifest.classes) != count:
            raise ModelRefused(
                f"{MANIFEST} names {len(manifest.classes)} classes, but the model gives {count} scores; correct the list."
            )
        return manifest.classes, ""
    for entry in model.metadata_props:
        if entry.key in _CLASS_KEYS:
            labels = _labels(entry.value)
            if len(labels) == count:
                return labels, ""
            return _numbered(
                count
            ), f"The class labels in the model's metadata do not fit its {count} scores and are not used."
    return _numbered(count), ""


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _labels(text: str) -> tuple[str, ...]:
    """Labels as exporters write them: a JSON list, a mapping from number to label (JSON or Python), or commas."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = [part.strip() for part in text.split(",")]
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value, key=lambda key: int(key) if str(key).isdigit() else -1)]
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
