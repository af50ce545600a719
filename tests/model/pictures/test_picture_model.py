"""Picture models: loaded from graphs as exporters write them, with gradients held against closed forms and differences."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.graphs import model as graph
from tests.graphs import node, tiny_cnn

from onnxplain.autodiff import RULES
from onnxplain.explainers.pictures import cam
from onnxplain.facts.errors import (
    Cancelled,
    LayerNotFound,
    MethodNotApplicable,
    ModelNotFound,
    ModelRefused,
    ModelUnavailable,
)
from onnxplain.model import Cancellation, ImageModel, load
from onnxplain.model.pictures.explainer_file import METHODS

RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((1, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., ImageModel]:
    """Writes a graph, with a manifest if there is one, and loads it."""

    def make(proto: onnx.ModelProto, manifest: str = "", cancellation: Cancellation | None = None) -> ImageModel:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        if manifest:
            (folder / "model.toml").write_text(manifest)
        found = load(folder, name="tiny", cancellation=cancellation or Cancellation())
        assert isinstance(found, ImageModel)
        return found

    return make


def scores_of(proto: onnx.ModelProto, x: np.ndarray, output: str) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], {session.get_inputs()[0].name: x})[0]


def behind(proto: onnx.ModelProto, *nodes: onnx.NodeProto, output: str, shape: list[int | str]) -> onnx.ModelProto:
    """The model with more nodes behind its scores, and another output."""
    proto.graph.node.extend(nodes)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    return proto


def test_a_bare_file_tells_everything(loaded: Callable[..., ImageModel]) -> None:
    """Input, size, classes, score, default layer with its reason, and where gradients come from."""
    card = loaded(tiny_cnn()).card
    assert (card.kind, card.task, card.score_output) == ("image", "classification", "scores")
    assert card.image is not None
    assert (card.image.size, card.image.mode, card.image.layout) == ((12, 12), "RGB", "NCHW")
    assert card.classes == ("0", "1", "2", "3", "4")
    assert card.default_layer is not None
    assert (card.default_layer.name, card.default_layer.shape) == ("features", (8, 6, 6))
    assert "6 x 6" in card.default_layer.reason
    assert [layer.name for layer in card.layers] == ["c1", "r1", "sum", "features"]
    assert card.gradient.source == "exact"
    assert card.forward_ms > 0


def test_the_gradient_of_a_mean_and_a_linear_layer_is_its_weight_over_the_places(
    loaded: Callable[..., ImageModel],
) -> None:
    """G_c = W_tc / (u v), exactly, for several classes in one run."""
    proto = tiny_cnn()
    weight = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w4")
    found = loaded(proto).layer_gradient(X, None, [3, 0])
    assert found.gradient.shape == (2, 8, 6, 6)
    for row, target in enumerate([3, 0]):
        assert np.allclose(found.gradient[row], (weight[target] / 36)[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("layer", ["c1", "r1", "c2", "features"])
def test_a_layers_gradient_predicts_what_a_small_step_does(loaded: Callable[..., ImageModel], layer: str) -> None:
    """At cuts of the graph, and inside a branch where a skip connection passes by."""
    model = loaded(tiny_cnn())
    run = model.at_layer(X, layer)
    step = RANDOM.standard_normal(run.activations.shape).astype(np.float32) * np.float32(1e-3)
    ahead, back = run.tail(np.stack([run.activations + step, run.activations - step]))
    slope = (run.gradient([2])[0] * step).sum()
    assert (ahead[2] - back[2]) / 2 == pytest.approx(slope, rel=2e-2, abs=1e-5)
    assert np.allclose(run.tail(run.activations[None])[0], run.scores, atol=1e-6)


def test_the_input_gradient_predicts_what_a_small_step_does(loaded: Callable[..., ImageModel]) -> None:
    """Two pictures in one run, each with its own class."""
    model = loaded(tiny_cnn())
    x = RANDOM.standard_normal((2, 3, 12, 12)).astype(np.float32)
    found = model.input_gradient(x, [1, 4])
    step = RANDOM.standard_normal(x.shape).astype(np.float32) * np.float32(1e-3)
    rise = (model.predict(x + step) - model.predict(x - step)) / 2
    slopes = (found.gradient * step).sum(axis=(1, 2, 3))
    assert np.allclose([rise[0, 1], rise[1, 4]], slopes, rtol=2e-2, atol=1e-5)


def test_only_layers_with_height_and_width_have_biases_for_fullgrad(loaded: Callable[..., ImageModel]) -> None:
    """A head that normalises its features adds to no place of the picture."""
    proto = tiny_cnn()
    proto.graph.initializer.extend(numpy_helper.from_array(np.ones(8, np.float32), n) for n in "abcd")
    gemm = proto.graph.node.pop()
    proto.graph.node.append(node("BatchNormalization", ["flat", *"abcd"], ["normed"]))
    gemm.input[0] = "normed"
    proto.graph.node.append(gemm)
    found = loaded(proto).bias_gradients(X, 0)
    assert [bias.shape for bias in found.biases] == [(8,)]
    assert [gradient.shape for gradient in found.gradients] == [(8, 12, 12)]


@pytest.mark.parametrize("linear", [True, False], ids=["linear end", "other end"])
def test_minus_one_asks_for_the_gradient_of_each_pictures_top_class(
    loaded: Callable[..., ImageModel], linear: bool
) -> None:
    """Equal to asking for these classes by number, with the scores that a prediction gives."""
    last = node("Tanh", ["scores"], ["y"])
    model = loaded(tiny_cnn() if linear else behind(tiny_cnn(), last, output="y", shape=["N", 5]))
    x = 3 * RANDOM.standard_normal((4, 3, 12, 12)).astype(np.float32)
    found = model.input_gradient(x, [-1] * 4)
    assert np.allclose(found.scores, model.predict(x), atol=1e-6)
    top = found.scores.argmax(axis=1)
    assert np.array_equal(found.gradient, model.input_gradient(x, top.tolist()).gradient)


@pytest.mark.parametrize("end", ["Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "Exp/Sum", "Log(Softmax + small)"])
def test_the_score_is_the_tensor_before_the_end(loaded: Callable[..., ImageModel], end: str) -> None:
    """Softmax and its like are looked behind, whatever casts and squeezes follow."""
    if end == "ArgMax":
        nodes = [node("ArgMax", ["scores"], ["top"], axis=1, keepdims=0), node("Cast", ["top"], ["y"], to=1)]
        proto = behind(tiny_cnn(), *nodes, output="y", shape=["N"])
    elif end == "Exp/Sum":
        nodes = [
            node("ReduceMax", ["scores", "one"], ["max"]),
            node("Sub", ["scores", "max"], ["less"]),
            node("Exp", ["less"], ["e"]),
            node("ReduceSum", ["e", "one"], ["total"]),
            node("Div", ["e", "total"], ["y"]),
        ]
        proto = behind(tiny_cnn(), *nodes, output="y", shape=["N", 5])
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    elif end == "Log(Softmax + small)":
        nodes = [node("Softmax", ["scores"], ["p"]), node("Add", ["p", "small"], ["q"]), node("Log", ["q"], ["y"])]
        proto = behind(tiny_cnn(), *nodes, output="y", shape=["N", 5])
        proto.graph.initializer.append(numpy_helper.from_array(np.array(1e-7, np.float32), "small"))
    else:
        proto = behind(
            tiny_cnn(), node(end, ["scores"], ["p"]), node("Identity", ["p"], ["y"]), output="y", shape=["N", 5]
        )
    model = loaded(proto)
    assert model.card.score_output == "scores"
    assert np.allclose(model.predict(X), scores_of(tiny_cnn(), X, "scores"), atol=1e-6)
    probabilities = model.probabilities(model.predict(X))
    assert probabilities is not None
    if end in {"Softmax", "Sigmoid", "Exp/Sum"}:
        assert np.allclose(probabilities, scores_of(proto, X, "y"), atol=1e-6)


def test_a_rising_function_behind_plain_scores_belongs_to_them(loaded: Callable[..., ImageModel]) -> None:
    """A last Clip without probabilities before it is the network's own end."""
    proto = behind(tiny_cnn(), node("Clip", ["scores", "low"], ["y"]), output="y", shape=["N", 5])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "low"))
    assert loaded(proto).card.score_output == "y"


@pytest.mark.parametrize("other", ["features", "flat", "extra"])
def test_of_several_outputs_the_scores_are_explained(loaded: Callable[..., ImageModel], other: str) -> None:
    """Maps are no scores, nor are features from which scores are made; between equals, names tell. The card says what was chosen."""
    proto = tiny_cnn()
    if other == "extra":
        proto.graph.node.append(node("MatMul", ["flat", "other"], ["extra"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 5), np.float32), "other"))
    shape = {"features": ["N", 8, 6, 6], "flat": ["N", 8], "extra": ["N", 5]}[other]
    values = [helper.make_tensor_value_info(other, TensorProto.FLOAT, shape), *proto.graph.output]
    del proto.graph.output[:]
    proto.graph.output.extend(values)
    card = loaded(proto).card
    assert card.score_output == "scores"
    assert any("several outputs" in warning for warning in card.warnings)


def test_the_manifest_may_name_any_tensor_as_score(loaded: Callable[..., ImageModel]) -> None:
    """Here the probabilities themselves."""
    proto = behind(tiny_cnn(), node("Softmax", ["scores"], ["y"]), output="y", shape=["N", 5])
    model = loaded(proto, 'score_output = "y"')
    assert np.allclose(model.predict(X), scores_of(proto, X, "y"), atol=1e-6)


def nhwc() -> onnx.ModelProto:
    """The tiny network behind a transpose, as TensorFlow's exporter writes it."""
    proto = tiny_cnn()
    proto.graph.node.insert(0, node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]))
    del proto.graph.input[:]
    proto.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 12, 12, 3]))
    return proto


def test_channels_last_gives_the_same_as_channels_first(loaded: Callable[..., ImageModel]) -> None:
    """Scores, layer gradient and input gradient, all in [n, c, h, w] for the caller."""
    plain, last = loaded(tiny_cnn()), loaded(nhwc())
    assert last.card.image is not None
    assert last.card.image.layout == "NHWC"
    assert np.allclose(last.predict(X), plain.predict(X), atol=1e-6)
    assert np.allclose(last.layer_gradient(X, None, [1]).gradient, plain.layer_gradient(X, None, [1]).gradient)
    assert np.allclose(last.input_gradient(X, [1]).gradient, plain.input_gradient(X, [1]).gradient, atol=1e-6)


def with_preprocessing(kind: int, divide: str) -> onnx.ModelProto:
    """The tiny network behind its own preprocessing: channels first, floats, a division."""
    proto = nhwc()
    proto.graph.node[0].output[0] = "pixels_first"
    factor = 255.0 if divide == "Div" else 1 / 255.0
    proto.graph.node.insert(1, node("Cast", ["pixels_first"], ["numbers"], to=TensorProto.FLOAT))
    proto.graph.node.insert(2, node(divide, ["numbers", "factor"], ["x"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([factor], np.float32), "factor"))
    proto.graph.input[0].type.tensor_type.elem_type = kind
    return proto


@pytest.mark.parametrize("divide", ["Div", "Mul"])
@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT], ids=["uint8", "float32"])
def test_a_graph_that_prepares_pixels_takes_them_as_they_are(
    loaded: Callable[..., ImageModel], kind: int, divide: str
) -> None:
    """No division twice; whole numbers have a gradient like others, for the graph makes floats of them anyway."""
    model = loaded(with_preprocessing(kind, divide))
    assert model.card.image is not None
    assert (model.card.image.scale, model.card.image.layout) == (1.0, "NHWC")
    pixels = RANDOM.integers(0, 256, (1, 3, 12, 12)).astype(np.float32)
    plain = loaded(tiny_cnn())
    assert np.allclose(model.predict(pixels), plain.predict(pixels / 255), atol=1e-5)
    found, expected = (m.input_gradient(x, [2]).gradient for m, x in ((model, pixels), (plain, pixels / 255)))
    assert np.allclose(found, expected / 255, atol=1e-6)


def test_arithmetic_on_whole_pixels_is_refused_with_its_node(loaded: Callable[..., ImageModel]) -> None:
    proto = with_preprocessing(TensorProto.UINT8, "Div")
    proto.graph.node.insert(1, node("Add", ["pixels_first", "pixels_first"], ["doubled"], name="twice"))
    proto.graph.node[2].input[0] = "doubled"
    with pytest.raises(ModelRefused, match="Add at node 'twice' computes with the whole numbers"):
        loaded(proto)


def test_a_batch_fixed_to_one_by_the_exporter_is_opened(loaded: Callable[..., ImageModel]) -> None:
    """Several pictures and several classes then run at once, with the same numbers."""
    fixed, free = loaded(tiny_cnn(batch=1)), loaded(tiny_cnn())
    assert fixed.batched
    x = RANDOM.standard_normal((3, 3, 12, 12)).astype(np.float32)
    assert np.allclose(fixed.predict(x), free.predict(x), atol=1e-6)


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 13])
def test_an_older_file_gives_the_scores_that_the_runtime_gives_for_it(
    loaded: Callable[..., ImageModel], opset: int
) -> None:
    """Until opset 10, resizing had no modes of coordinates: what the upgrade writes into the node decides about the scores."""
    scales = np.array([1, 1, 2, 3], np.float32)
    inputs, attributes = {
        8: (["c"], {"scales": scales.tolist()}),
        9: (["c", "scales"], {}),
        10: (["c", "scales"], {}),
    }.get(opset, (["c", "roi", "scales"], {"coordinate_transformation_mode": "align_corners"}))
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("Resize" if opset >= 10 else "Upsample", inputs, ["larger"], mode="linear", **attributes),
        node("Relu", ["larger"], ["kept"]),
        node("GlobalAveragePool", ["kept"], ["mean"]),
        node("Flatten", ["mean"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", ["N", 3, 12, 12]), ("scores", ["N", 4]))
    ]
    constants = {
        "w": RANDOM.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "scales": scales,
        "roi": np.zeros(0, np.float32),
    }
    proto = graph(nodes, ends[:1], ends[1:], constants, opset)
    proto.ir_version = 7
    assert np.allclose(loaded(proto).predict(X), scores_of(proto, X, "scores"), atol=1e-5)


def test_zeros_around_a_pool_count(loaded: Callable[..., ImageModel]) -> None:
    """The runtime's optimiser would take the border into the pool, where it is smaller than any number: here all others are negative."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Abs", ["c"], ["positive"]),
        node("Neg", ["positive"], ["negative"]),
        node("Pad", ["negative", "border"], ["padded"]),
        node("MaxPool", ["padded"], ["pooled"], kernel_shape=[3, 3], strides=[2, 2]),
        node("GlobalAveragePool", ["pooled"], ["mean"]),
        node("Flatten", ["mean"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", ["N", 3, 12, 12]), ("scores", ["N", 4]))
    ]
    kernel = RANDOM.standard_normal((4, 3, 1, 1)).astype(np.float32)
    model = loaded(graph(nodes, ends[:1], ends[1:], {"w": kernel, "border": np.array([0, 0, 1, 1, 0, 0, 1, 1])}))
    padded = np.pad(-np.abs(np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], X)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    assert np.allclose(model.predict(X), windows.max(axis=(4, 5)).mean(axis=(2, 3)), atol=1e-5)


def test_an_upgrade_that_changes_the_scores_is_refused(
    loaded: Callable[..., ImageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a converter may do: the scores of the file as it is decide."""
    wrong = tiny_cnn(seed=1)
    monkeypatch.setattr("onnxplain.model.loading.normalise", lambda _: wrong)
    with pytest.raises(ModelRefused, match="other scores than the file as it is"):
        loaded(tiny_cnn())


def test_a_batch_that_cannot_be_opened_is_run_one_by_one(loaded: Callable[..., ImageModel]) -> None:
    """A reshape with a written-out 1 holds for one picture only."""
    proto = tiny_cnn(batch=1)
    nodes = [n for n in proto.graph.node if n.op_type != "Flatten"]
    nodes.insert(-1, node("Reshape", ["means", "one_row"], ["flat"]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 8], np.int64), "one_row"))
    model = loaded(proto)
    assert not model.batched
    free = ort.InferenceSession(tiny_cnn().SerializeToString(), providers=["CPUExecutionProvider"])
    x = RANDOM.standard_normal((3, 3, 12, 12)).astype(np.float32)
    assert np.allclose(model.predict(x), free.run(None, {"x": x})[0], atol=1e-6)
    assert model.layer_gradient(x[:1], None, [1, 2]).gradient.shape == (2, 8, 6, 6)
    assert model.input_gradient(x, [0, 1, 2]).gradient.shape == x.shape


def test_a_reshaped_scalar_says_nothing_of_the_batch(loaded: Callable[..., ImageModel]) -> None:
    """PyTorch writes the number of pictures as a scalar, reshapes it to a list and makes the shape of the features of it."""
    proto = tiny_cnn()
    flat = [
        node("Shape", ["x"], ["pictures"], end=1),
        node("Squeeze", ["pictures"], ["count"]),
        node("Reshape", ["count", "one"], ["row"]),
        node("Concat", ["row", "channels"], ["shape"], axis=0),
        node("Reshape", ["means", "shape"], ["flat"]),
    ]
    nodes = [*proto.graph.node[:-2], *flat, proto.graph.node[-1]]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(numpy_helper.from_array(np.array([v]), n) for n, v in (("one", -1), ("channels", 8)))
    assert loaded(proto).batched


def test_a_batch_of_several_that_cannot_be_opened_is_refused(loaded: Callable[..., ImageModel]) -> None:
    """One picture would pass through this graph, as the four rows that it makes of its input."""
    proto = tiny_cnn(batch=4)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([4, -1]), "four_rows"))
    nodes = [*proto.graph.node[:-2], node("Reshape", ["means", "four_rows"], ["flat"]), proto.graph.node[-1]]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    with pytest.raises(ModelRefused, match="takes 4 pictures at once"):
        loaded(proto)
    assert loaded(tiny_cnn(batch=4)).batched


def test_pictures_that_mix_in_a_batch_are_run_one_by_one(loaded: Callable[..., ImageModel]) -> None:
    """A mean over the batch gives each picture something of the others; alone it gets the right scores."""
    proto = tiny_cnn()
    nodes = list(proto.graph.node)
    nodes[-1].output[0] = "own"
    nodes += [node("ReduceMean", ["own", "zero"], ["mean"]), node("Add", ["own", "mean"], ["scores"])]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    model = loaded(proto)
    assert not model.batched
    x = RANDOM.standard_normal((2, 3, 12, 12)).astype(np.float32)
    assert np.allclose(model.predict(x)[1], scores_of(proto, x[1:], "scores")[0], atol=1e-6)


def test_missing_rules_lead_to_finite_differences_of_the_same_map(
    loaded: Callable[..., ImageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rule behind the layer, Grad-CAM's channel means come from two runs a channel, and the card says so."""
    exact = loaded(tiny_cnn()).layer_gradient(X, "features", [2])
    monkeypatch.delitem(RULES, "GlobalAveragePool")
    model = loaded(tiny_cnn())
    assert model.card.gradient.source == "finite-difference"
    assert any("GlobalAveragePool" in rule for rule in model.card.gradient.missing_rules)
    assert "gradcam" in model.card.explainers
    assert "hirescam" not in model.card.explainers
    found = model.layer_gradient(X, "features", [2])
    assert found.source == "finite-difference"
    maps = [cam.grad_cam(f.activations, f.gradient[0]) for f in (found, exact)]
    assert np.allclose(maps[0], maps[1], atol=1e-3 * float(maps[1].max()))
    with pytest.raises(MethodNotApplicable, match="GlobalAveragePool"):
        model.input_gradient(X, [0])


def patches(prefix: int) -> onnx.ModelProto:
    """A transformer in small: patches as tokens behind `prefix` others, mixed once, and a score from the first token."""
    rng = np.random.default_rng(1)
    c, tokens = 6, prefix + 12
    constants = {
        "w": rng.standard_normal((c, 3, 4, 4)).astype(np.float32),
        "rows": np.array([0, c, -1], np.int64),
        "class": rng.standard_normal((1, prefix, c)).astype(np.float32),
        "mix": rng.standard_normal((tokens, tokens)).astype(np.float32) / tokens,
        "head": rng.standard_normal((c, 3)).astype(np.float32),
        "first": np.array(0, np.int64),
        "zero": np.array([0], np.int64),
        "batch": np.array([1, 1], np.int64),
    }
    nodes = [
        node("Conv", ["x", "w"], ["patched"], strides=[4, 4]),
        node("Reshape", ["patched", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Concat", ["n", "batch"], ["repeats"], axis=0),
        node("Expand", ["class", "repeats"], ["prefix"]),
        node("Concat", ["prefix", "tokens"], ["stream"], axis=1),
        node("MatMul", ["mix", "stream"], ["attended"]),
        node("Add", ["stream", "attended"], ["mixed"]),
        node("Tanh", ["mixed"], ["normed"]),
        node("Gather", ["normed", "first"], ["chosen"], axis=1),
        node("MatMul", ["chosen", "head"], ["scores"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 16])
    return graph(nodes, [x], [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])], constants)


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_patches_behind_a_class_token_are_found_without_help(loaded: Callable[..., ImageModel], prefix: int) -> None:
    """The grid comes from the graph; what lies behind the last mixing shows only the class token and is passed over."""
    model = loaded(patches(prefix))
    layer = model.card.default_layer
    assert layer is not None
    assert (layer.name, layer.shape) == ("stream", (6, 3, 4))
    run = model.at_layer(X_WIDE)
    exact = run.gradient([1])[0]
    step = RANDOM.standard_normal(run.activations.shape).astype(np.float32) * np.float32(1e-2)
    ahead, back = run.tail(np.stack([run.activations + step, run.activations - step]))
    assert (ahead[1] - back[1]) / 2 == pytest.approx((exact * step).sum(), rel=1e-2, abs=1e-5)
    assert model.at_layer(X_WIDE, "patched").activations.shape == (6, 3, 4)


def sequence(order: list[int]) -> onnx.ModelProto:
    """Twelve pixels become 3 x 3 patches of 16 channels, `maps`; `[n, 16, 9]` in the given order, `patches`; one weight a patch, and scores."""
    random = np.random.default_rng(3)
    nodes = [
        node("Conv", ["x", "w"], ["first"], strides=[3, 3]),
        node("Conv", ["first", "w2"], ["maps"]),
        node("Reshape", ["maps", "rows"], ["sequence"]),
        node("Gather", ["sequence", "order"], ["patches"], axis=2),
        node("MatMul", ["patches", "share"], ["mean"]),
        node("Squeeze", ["mean", "last"], ["flat"]),
        node("MatMul", ["flat", "head"], ["scores"]),
    ]
    constants = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w2": random.standard_normal((16, 8, 2, 2)).astype(np.float32),
        "rows": np.array([0, 16, 9]),
        "order": np.array(order),
        "share": random.standard_normal((9, 1)).astype(np.float32),
        "last": np.array([2]),
        "head": random.standard_normal((16, 4)).astype(np.float32),
    }
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", ["N", 3, 12, 12]), ("scores", ["N", 4]))
    ]
    return graph(nodes, ends[:1], ends[1:], constants)


def test_which_axis_holds_the_patches_is_found_by_looking(loaded: Callable[..., ImageModel]) -> None:
    """16 channels of 9 patches look like 9 channels of 16: the halves of a picture tell them apart."""
    model = loaded(sequence(list(range(9))))
    assert model.card.default_layer is not None
    assert (model.card.default_layer.name, model.card.default_layer.shape) == ("patches", (16, 3, 3))
    found, maps = (model.layer_gradient(X, name, [1]) for name in ("patches", "maps"))
    assert np.allclose(found.activations, maps.activations, atol=1e-5)
    assert np.allclose(found.gradient, maps.gradient, atol=1e-5)
    assert model.layer_gradient(X, "sequence", [1]).activations.shape == (16, 3, 3)


def test_a_size_that_the_patches_do_not_fit_is_refused(loaded: Callable[..., ImageModel]) -> None:
    """Nine patches stand in a constant of the graph; another size makes more."""
    proto = sequence(list(range(9)))
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    with pytest.raises(ModelRefused, match=r"correct `size`|shape of the scores"):
        loaded(proto, "[image]\nsize = [24, 24]")


def test_patches_in_another_order_are_no_map(loaded: Callable[..., ImageModel]) -> None:
    """Columns first, as windows may leave them: a map of these would be a wrong one. The layer before takes their place."""
    model = loaded(sequence([0, 3, 6, 1, 4, 7, 2, 5, 8]))
    assert model.card.default_layer is not None
    assert model.card.default_layer.name == "sequence"
    with pytest.raises(LayerNotFound, match="do not stand as they do in the picture"):
        model.layer_gradient(X, "patches", [1])


def test_branches_that_meet_without_height_and_width_still_have_a_layer(loaded: Callable[..., ImageModel]) -> None:
    """Two ways of convolution and mean, joined as rows: no tensor has all of it, so the last branch's own is taken."""
    rng = np.random.default_rng(2)
    constants = {name: rng.standard_normal((4, 3, 3, 3)).astype(np.float32) for name in ("w1", "w2")}
    constants["head"] = rng.standard_normal((8, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Conv", ["x", "w2"], ["b"]),
        node("Tanh", ["b"], ["t"]),
        node("GlobalAveragePool", ["a"], ["ma"]),
        node("GlobalAveragePool", ["t"], ["mb"]),
        node("Concat", ["ma", "mb"], ["m"], axis=1),
        node("Flatten", ["m"], ["rows"]),
        node("MatMul", ["rows", "head"], ["scores"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])
    proto = graph(nodes, [x], [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])], constants)
    model = loaded(proto)
    assert model.card.default_layer is not None
    assert model.card.default_layer.name == "t"
    assert "branches" in model.card.default_layer.reason
    gradient = model.layer_gradient(X, None, [1]).gradient[0]
    assert np.allclose(gradient, (constants["head"][4:, 1] / 100)[:, None, None])
    assert model.predict(X).shape == (1, 3)


X_WIDE = RANDOM.standard_normal((1, 3, 12, 16)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_the_explainer_file_gives_the_services_own_answer_without_our_code(
    loaded: Callable[..., ImageModel], method: str
) -> None:
    """Checked by ONNX, run in a bare session, for two pictures and classes at once; a negative class is the top one."""
    from onnxplain.explain.picture_maps import picture_maps
    from onnxplain.explain.picture_methods import Targets
    from onnxplain.facts.methods import METHODS as ALL

    model = loaded(patches(1))
    content = model.explainer_file(method)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["picture", "target"]
    assert [value.name for value in session.get_outputs()] == ["scores", "heatmap"]
    other = RANDOM.standard_normal(X_WIDE.shape).astype(np.float32)
    top = int(model.predict(other)[0].argmax())
    pictures = np.concatenate([X_WIDE, other])
    scores, heatmaps = session.run(None, {"picture": pictures, "target": np.array([2, -1])})
    assert np.allclose(scores, model.predict(pictures), atol=1e-6)
    options = ALL[method].options()
    for x, target, heatmap in ((X_WIDE, 2, heatmaps[0]), (other, top, heatmaps[1])):
        own = picture_maps(ALL[method], model, x, Targets((target,)), options, inf, lambda _: None).maps[0]
        assert np.allclose(heatmap, own, rtol=1e-5, atol=1e-7)


def test_a_guessed_size_that_does_not_fit_is_refused_with_the_setting(loaded: Callable[..., ImageModel]) -> None:
    """Height and width are left open, yet the linear layer holds for one size only."""
    weights = {"w": RANDOM.standard_normal((3 * 12 * 12, 5)).astype(np.float32)}
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, "H", "W"]), ("y", ["N", 5]))
    ]
    open_size = graph([node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w"], ["y"])], ends[:1], ends[1:], weights)
    with pytest.raises(ModelRefused, match=r"224 x 224 was tried.*set `size`"):
        loaded(open_size)
    assert loaded(open_size, "[image]\nsize = [12, 12]").predict(X).shape == (1, 5)


@pytest.mark.parametrize("operator", ["BatchNormalization", "Dropout"])
def test_a_model_in_training_form_is_refused_with_its_node(loaded: Callable[..., ImageModel], operator: str) -> None:
    proto = tiny_cnn()
    gemm = proto.graph.node[-1]
    if operator == "Dropout":
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.array(v), n) for n, v in (("p", np.float32(0.5)), ("on", True))
        )
        added = node(operator, ["flat", "p", "on"], ["dropped"], name="the_node")
    else:
        proto.graph.initializer.extend(numpy_helper.from_array(np.ones(8, np.float32), n) for n in "abcd")
        added = node(operator, ["flat", *"abcd"], ["dropped", "m", "v"], name="the_node", training_mode=1)
    gemm.input[0] = "dropped"
    nodes = [*proto.graph.node[:-1], added, gemm]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    with pytest.raises(ModelRefused, match=rf"training form: {operator} at node 'the_node'"):
        loaded(proto)


def test_a_picture_of_a_gigapixel_is_refused_by_its_size(loaded: Callable[..., ImageModel]) -> None:
    """Its trial run alone would take gigabytes."""
    proto = tiny_cnn()
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 30_000
    with pytest.raises(ModelRefused, match="15000 x 15000"):
        loaded(proto)


def test_labels_come_from_manifest_or_metadata(loaded: Callable[..., ImageModel]) -> None:
    """As lists, as the mapping that ultralytics writes, or as the manifest says; a wrong count refuses the manifest's."""
    proto = tiny_cnn()
    helper.set_model_props(proto, {"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}"})
    assert loaded(proto).card.classes == tuple("abcde")
    assert loaded(proto, 'classes = ["v", "w", "x", "y", "z"]').card.classes == tuple("vwxyz")
    with pytest.raises(ModelRefused, match="2 classes, but the model gives 5"):
        loaded(proto, 'classes = ["v", "w"]')


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ('kinds = "image"', "unknown key `kinds`"),
        ("[image]\nsize = 12", "height and width"),
        ("[image]\nsize = [13, 12]", "the graph takes pictures of"),
        ('[image]\nmode = "L"', "does not fit the 3 channels"),
        ("[image]\nstd = [0.0, 1.0, 1.0]", "above zero"),
        ("[image]\nmean = [0.0, 1.0]", "one number a channel"),
        ('score_output = "nowhere"', "no node of the graph computes"),
        ('[gradcam]\nlayer = "flat"', "no tensor with height and width"),
        ('classes_file = "../../etc/passwd"', "inside the model's folder"),
        ("= 1", "not TOML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_reason(
    loaded: Callable[..., ImageModel], manifest: str, sentence: str
) -> None:
    """Nothing is guessed around a mistake."""
    with pytest.raises(ModelRefused, match=sentence):
        loaded(tiny_cnn(), manifest)


def test_an_unknown_layer_is_named_with_ones_that_exist(loaded: Callable[..., ImageModel]) -> None:
    """So is one without height and width."""
    model = loaded(tiny_cnn())
    for name in ("nowhere", "flat", "scores", "x"):
        with pytest.raises(LayerNotFound, match="features"):
            model.at_layer(X, name)


def test_files_that_are_no_safe_model_are_refused(tmp_path: Path) -> None:
    """Other bytes, weights in other files, operators of foreign libraries, a missing and a changed file."""
    file = tmp_path / "model.onnx"

    def attempt(content: bytes, sha256: str = "") -> None:
        file.write_bytes(content)
        load(file, name="x", sha256=sha256, cancellation=Cancellation())

    with pytest.raises(ModelRefused, match="not an ONNX model"):
        attempt(b"PK\x03\x04 not a model")
    with pytest.raises(ModelRefused, match="not an ONNX model"):
        attempt(b"")
    external = tiny_cnn()
    external.graph.initializer[0].data_location = TensorProto.EXTERNAL
    external.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelRefused, match="other files"):
        attempt(external.SerializeToString())
    foreign = tiny_cnn()
    foreign.graph.node[1].domain = "evil"
    with pytest.raises(ModelRefused, match=r"evil\.Relu"):
        attempt(foreign.SerializeToString())
    with pytest.raises(ModelUnavailable, match="changed"):
        attempt(tiny_cnn().SerializeToString(), sha256="0" * 64)
    with pytest.raises(ModelNotFound):
        load(tmp_path / "nowhere.onnx", name="x", cancellation=Cancellation())


def test_a_cancelled_model_stops_and_serves_again_after_a_reset(loaded: Callable[..., ImageModel]) -> None:
    """Cancel comes from another thread; work in a loop hears it between runs."""
    cancellation = Cancellation()
    model = loaded(tiny_cnn(), cancellation=cancellation)
    threading.Timer(0.05, cancellation.cancel).start()

    def until_stopped() -> None:
        for _ in range(1_000_000):
            model.predict(X)

    with pytest.raises(Cancelled):
        until_stopped()
    with pytest.raises(Cancelled):
        model.predict(X)
    cancellation.reset()
    assert model.predict(X).shape == (1, 5)


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in half precision, input and output included."""
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return half


def test_half_precision_transformers_have_the_gradients_of_the_plain_ones(loaded: Callable[..., ImageModel]) -> None:
    """Statistics of a LayerNormalization stay float32, and a transpose before a product is more than the runtime's optimiser bears."""
    shapes = {"rows": (12, 3), "mix": (3, 8), "w": (8, 5), "gamma": (3,)}
    nodes = [
        node("Transpose", ["x"], ["turned"], perm=[1, 2, 0, 3]),
        node("MatMul", ["turned", "rows"], ["mixed_turned"]),
        node("Transpose", ["mixed_turned"], ["mixed"], perm=[2, 0, 1, 3]),
        node("LayerNormalization", ["mixed", "gamma"], ["normed"]),
        node("MatMul", ["normed", "mix"], ["wide"]),
        node("Tanh", ["wide"], ["bent"]),
        node("ReduceMax", ["bent"], ["largest"], axes=[1, 2], keepdims=0),
        node("MatMul", ["largest", "w"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 12, 12]), ("y", ["N", 5]))
    ]
    proto = graph(
        nodes,
        ends[:1],
        ends[1:],
        {n: RANDOM.standard_normal(s).astype(np.float32) for n, s in shapes.items()},
        opset=17,
    )
    model, plain = loaded(halved(proto)), loaded(proto)
    assert np.allclose(model.predict(X), plain.predict(X), atol=2e-2)
    ours, theirs = (m.input_gradient(X, [1]).gradient.ravel() for m in (model, plain))
    assert ours @ theirs > 0.999 * np.linalg.norm(ours) * np.linalg.norm(theirs)


def test_half_precision_is_fed_with_float32(loaded: Callable[..., ImageModel]) -> None:
    """Casts are put before and behind the graph; maps and gradients come back as float32, like those of the plain model."""
    model, plain = loaded(halved(tiny_cnn())), loaded(tiny_cnn())
    assert model.predict(X).dtype == np.float32
    assert np.allclose(model.predict(X), plain.predict(X), atol=1e-2)
    found, expected = (m.layer_gradient(X, "features", [2, 0]) for m in (model, plain))
    assert found.gradient.dtype == found.activations.dtype == np.float32
    assert np.allclose(found.gradient, expected.gradient, atol=1e-3)
    assert np.allclose(found.activations, expected.activations, atol=1e-2)
    assert np.allclose(model.input_gradient(X, [1]).gradient, plain.input_gradient(X, [1]).gradient, atol=1e-2)
    run = model.at_layer(X, "c1")
    assert np.allclose(run.tail(run.activations[None]), plain.predict(X), atol=1e-2)
