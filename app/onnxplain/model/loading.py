"""From a file to a model: the checks that come first, one dialect of operators, and the decision picture or table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from onnxplain.autodiff import normalise
from onnxplain.autodiff.lowering import in_own_domain
from onnxplain.autodiff.normalise import DIALECT
from onnxplain.facts.cards import Kind
from onnxplain.facts.errors import InputRefusedByModel, ModelNotFound, ModelRefused, ModelUnavailable
from onnxplain.model.graphs.graph import Graph, all_nodes
from onnxplain.model.manifest import Identity, Manifest, read_manifest
from onnxplain.model.meaning.preparation import WHOLE
from onnxplain.model.meaning.scores import FLOATS
from onnxplain.model.pictures.loading import load_image
from onnxplain.model.pictures.picture_model import ImageModel
from onnxplain.model.runtime.noise import Noise
from onnxplain.model.runtime.sessions import Cancellation, Session, release_memory
from onnxplain.model.tables.table_model import TabularModel, load_tabular

MODEL_FILE = "model.onnx"
MODEL_BYTES = (1 << 31) - 1  # largest file of a model: the limit of protobuf
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # operator domains that ONNX Runtime has built in
NODES = 100_000  # most nodes of a graph; the largest networks have some ten thousand
NAME_CHARACTERS = 4096
_SAME = 1e-2  # difference, as a share of the largest score, that another order of sums and roundings explains
_SMALL = (
    1024  # elements of the largest weight that may be a shape or axes; checker and converter do not need larger ones
)


def load(
    path: Path,
    *,
    name: str,
    version: str = "1",
    sha256: str = "",
    cancellation: Cancellation,
    threads: int = 1,
) -> ImageModel | TabularModel:
    """The model in a folder (`model.onnx`, perhaps `model.toml`) or in a bare .onnx file.

    Args:
        path: the folder or the file.
        name: what the registry calls it.
        version: which of that name.
        sha256: what the .onnx bytes must hash to; empty for whatever they do.
        cancellation: stops the model's runs from another thread.
        threads: threads inside one operator.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnavailable: the file is not the one that `sha256` belongs to.
        ModelRefused: the file or its manifest cannot be used; the message says why and what to do.
    """
    folder = path if path.is_dir() else None
    file = path / MODEL_FILE if folder else path
    manifest = read_manifest(folder)
    model, digest, rewritten = read_model(file, sha256)
    identity = Identity(name, version, digest)
    loaded: ImageModel | TabularModel
    if kind_of(Graph(model), manifest) == "image":
        loaded = load_image(
            model, manifest, identity, folder, lambda: read_model(file, digest)[0], cancellation, threads
        )
    else:
        loaded = load_tabular(model, manifest, path if folder else path.parent, identity, cancellation, threads)
    del model
    release_memory()
    if rewritten and isinstance(loaded, ImageModel):
        _require_same_scores(file, loaded, cancellation, threads)
        release_memory()
    return loaded


def load_unoptimised(path: Path, cancellation: Cancellation) -> None:
    """Try whether the runtime takes a model at all, before its optimiser, which computes parts of the graph, sees it.

    Raises:
        ModelNotFound, ModelRefused: as `load`.
    """
    Session(read_model(path / MODEL_FILE if path.is_dir() else path)[0], cancellation, optimise=False)


def read_model(file: Path, sha256: str = "") -> tuple[ModelProto, str, bool]:
    """The checked graph of a file in the dialect of the gradient rules, the file's SHA-256, and whether operators were rewritten.

    Raises:
        ModelNotFound, ModelUnavailable, ModelRefused: as `load`.
    """
    if not file.is_file():
        raise ModelNotFound(f"There is no file '{file.name}' for this model; put the .onnx file into its folder.")
    if file.stat().st_size > MODEL_BYTES:
        raise ModelRefused(
            "The model file is larger than 2 GiB, more than one ONNX file can hold; use a smaller model."
        )
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256:
        raise ModelUnavailable("The model's file changed while it was in use; send the request again.")
    model, rewritten = parse_model(content)
    return model, digest, rewritten


def parse_model(content: bytes) -> tuple[ModelProto, bool]:
    """The checked graph in these bytes, in the dialect of the gradient rules (`normalise`), and whether that rewrote operators.

    Raises:
        ModelRefused: the bytes are no ONNX model, or one that the service does not load.
    """
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelRefused(
            "The file is not an ONNX model: its bytes are not a protobuf message; export it again."
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelRefused("The file is not an ONNX model: it has no graph with operators; export it again.")
    try:
        _require_plain_size(model)
        _require_single_file(model)
        _require_known_domains(model)
        ready = _in_one_dialect(model)
        _require_inference(ready[0])
    except UnicodeDecodeError as error:  # protobuf reads texts when they are asked for
        raise ModelRefused("A name in the model is not UTF-8; the file is damaged, export it again.") from error
    return ready


def _require_same_scores(file: Path, model: ImageModel, cancellation: Cancellation, threads: int) -> None:
    """Hold a rewritten model's scores against those that the runtime gives for the file as it is, on noise.

    An upgrade that means something else would explain another model than the one that was handed over.

    Args:
        file: goes to the runtime as bytes; parsed here it would be in memory once more.
        model: what was made of it.
        cancellation: stops the runs.
        threads: threads inside one operator.
    """
    (value,), spec, score = model.card.inputs, model.card.image, model.card.score_output
    assert spec is not None
    shown = ModelProto()
    if score not in {output.name for output in model.card.outputs}:
        shown.graph.output.append(ValueInfoProto(name=score))
    x = Noise().uniform((1, 1 if spec.mode == "L" else 3, *spec.size))
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(value.dtype.upper()))
    if kind.kind != "f":
        x = np.floor(256 * x)
    laid_out = x.transpose(0, 2, 3, 1) if spec.layout == "NHWC" else x
    try:
        # Two messages in a row are one with the fields of both: the file, with one output more.
        session = Session(file.read_bytes() + shown.SerializeToString(), cancellation, threads, optimise=False)
        wanted = session.run({value.name: np.ascontiguousarray(laid_out, kind)}, [score])[0]
    except (ModelRefused, InputRefusedByModel):
        return  # the score got its name only here, or the runtime does not run the file: nothing to compare with
    found = model.predict(x)
    if not np.allclose(found, wanted.reshape(found.shape), rtol=0, atol=_SAME * float(np.abs(wanted).max()) + 1e-6):
        raise ModelRefused(
            f"Upgraded to opset {DIALECT} and optimised by the runtime, the model gives other scores than the file as it is; export "
            f"it again with opset {DIALECT} or newer."
        )


def kind_of(graph: Graph, manifest: Manifest) -> Kind:
    """What the manifest says, else `image` for one 4-D input of numbers, else `tabular`."""
    if manifest.kind is not None:
        return manifest.kind
    value = graph.inputs[0] if len(graph.inputs) == 1 else None
    shape = graph.shape(value.name) if value is not None else None
    is_picture = (
        value is not None and shape is not None and len(shape) == 4 and graph.element_type(value.name) in FLOATS | WHOLE
    )
    return "image" if is_picture else "tabular"


def _require_single_file(model: ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRefused(
                "The model keeps weights in other files; save it as one file, for instance by torch.onnx.export(..., external_data=False) "
                "or onnx.save(onnx.load(path), other_path)."
            )


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor of a message, whatever field holds it: a list of the fields would forget those of the next version of ONNX."""
    waiting = [message]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, TensorProto):
            yield holder
            continue
        for field, value in holder.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting += [value] if isinstance(value, Message) else list(value)


def _require_known_domains(model: ModelProto) -> None:
    # Some exporters name the same version twice, which says nothing new.
    versions = {(entry.domain or "ai.onnx", entry.version) for entry in model.opset_import}
    if len({domain for domain, _ in versions}) < len(versions):
        raise ModelRefused("The model names two versions of the same operators; export it again.")
    local = {(function.domain, function.name) for function in model.functions}
    inside = [node for function in model.functions for node in function.node]
    for node in (*all_nodes(model.graph), *inside):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            raise ModelRefused(
                f"The operator {node.domain}.{node.op_type} is not one that ONNX Runtime has by itself; "
                f"export the model with operators of {', '.join(sorted(DOMAINS - {''}))}."
            )


def _require_inference(model: ModelProto) -> None:
    """Refuse what drops numbers at random, or normalises by the pictures of one run."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    held |= {
        n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    for node in model.graph.node:
        switch = held.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        if any(a.name == "training_mode" and a.i for a in node.attribute) or (
            switch is not None and numpy_helper.to_array(switch).any()
        ):
            raise ModelRefused(
                f"The model is in training form: {node.op_type} at node '{node.name or node.output[0]}' computes other things than in "
                "use. Export it in inference mode, in PyTorch after model.eval()."
            )


def _require_plain_size(model: ModelProto) -> None:
    """Refuse what no exporter writes: a graph without inputs, names like novels, more nodes than any network has.

    Nodes are counted as they will be once functions are inlined: ten functions that call each other ten times are short
    in the file and endless in memory.
    """
    values = (*model.graph.input, *model.graph.output)
    if not model.graph.input:
        raise ModelRefused("The model has no input, so there is nothing to explain; export it with its inputs.")
    if any(len(value.name) > NAME_CHARACTERS for value in values):
        raise ModelRefused(
            f"A name in the model has more than {NAME_CHARACTERS} characters; export it with shorter names."
        )
    if len(model.graph.node) > NODES:
        raise ModelRefused(f"The model has more than {NODES} operators; use a smaller one.")
    functions = {(function.domain, function.name): function.node for function in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[NodeProto], depth: int) -> int:
        if depth > len(functions):
            raise ModelRefused("The model's functions call themselves; export it without recursion.")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in counted:
                counted[key] = count(functions[key], depth + 1)
            total += counted.get(key, 1)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    total += count(graph.node, depth)
        return total

    nodes = count(model.graph.node, 0)
    if nodes > NODES:
        raise ModelRefused(
            f"The model has {nodes} operators, more than the {NODES} that are loaded; use a smaller one."
        )


def _in_one_dialect(model: ModelProto) -> tuple[ModelProto, bool]:
    """Inline, check and upgrade the graph in place, without its large weights, which nothing of that reads."""
    original, large = _without_large_weights(model)
    try:
        checker.check_model(in_own_domain(original))
        skeleton = normalise(original)
    except ModelRefused:
        raise
    except Exception as error:
        gist = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelRefused(f"The model is not valid ONNX ({gist}); export it again with a newer opset.") from error
    # The weights stay where they are: moving them would copy them.
    for index in reversed([i for i, tensor in enumerate(model.graph.initializer) if tensor.name not in large]):
        del model.graph.initializer[index]
    model.graph.initializer.extend(skeleton.graph.initializer)
    for part in ("node", "input", "output", "value_info"):
        del getattr(model.graph, part)[:]
        getattr(model.graph, part).extend(
            v for v in getattr(skeleton.graph, part) if part != "input" or v.name not in large
        )
    del model.functions[:]
    del model.opset_import[:]
    model.opset_import.extend(skeleton.opset_import)
    model.ir_version = max(skeleton.ir_version, 4)  # below 4, initialisers would have to be inputs
    return model, skeleton is not original


def _without_large_weights(model: ModelProto) -> tuple[ModelProto, frozenset[str]]:
    """A copy of the model in which large initialisers are inputs, and their names."""
    large = frozenset(tensor.name for tensor in model.graph.initializer if math.prod(tensor.dims) > _SMALL)
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for tensor in model.graph.initializer:
        if tensor.name in large:
            graph.input.append(_value_like(tensor))
        else:
            graph.initializer.append(tensor)
            if model.ir_version < 4:
                graph.input.append(_value_like(tensor))
    return skeleton, large


def _value_like(tensor: TensorProto) -> ValueInfoProto:
    value: ValueInfoProto = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    return value
