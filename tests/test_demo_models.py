"""The demo models do what their documents say, and their explanations lie where the truth is known to lie."""

from pathlib import Path

import numpy as np
import pytest
from models.shapes.generate import CLASSES, pictures

from onnxplain.explain.picture import explain_picture
from onnxplain.facts.tasks import ExplainTask, ModelRef
from onnxplain.model import Cancellation, load
from onnxplain.pictures.decode import decode
from onnxplain.pictures.draw import encode_png
from onnxplain.pictures.geometry import to_tensor

MODELS = Path(__file__).parent.parent / "models"
FRESH_SEED = 31_415  # of pictures that no training saw


@pytest.fixture(scope="module")
def shapes():
    return load(MODELS / "shapes", name="shapes", version="1", cancellation=Cancellation())


def heatmaps(model, pixels: np.ndarray, labels: list[str], method: str = "gradcam") -> list[np.ndarray]:
    """The placed maps [96, 96] of these classes, through the whole of a worker's path from PNG to PNG."""
    body = encode_png(pixels)
    task = ExplainTask(ModelRef("shapes", ""), method, "image/png", body, {"target": labels})
    answer = explain_picture(task, model, lambda _: None)
    assert [explanation.target.label for explanation in answer.explanations] == labels
    return [decode(explanation.heatmap)[..., 0] for explanation in answer.explanations]


def localisation(model, count: int, method: str) -> tuple[float, float]:
    """Shares: peaks inside the right shape's mask; two-shape pictures with both peaks on their own shapes."""
    hits, pairs = [], []
    for sample in pictures(count, FRESH_SEED):
        maps = heatmaps(model, sample.pixels, [shape.label for shape in sample.shapes], method)
        inside = [bool(shape.mask.flat[map_.argmax()]) for shape, map_ in zip(sample.shapes, maps, strict=True)]
        hits += inside
        if len(inside) == 2:
            pairs.append(all(inside))
    return float(np.mean(hits)), float(np.mean(pairs))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_heatmaps_of_500_fresh_pictures_peak_on_the_shape_that_is_explained(shapes, method):
    hits, pairs = localisation(shapes, 500, method)
    print(f"{method}, 500 fresh pictures: peak in the right mask {hits:.1%}, both peaks of a pair {pairs:.1%}")
    assert hits >= 0.95
    assert pairs >= 0.90


def test_shapes_are_named_rightly(shapes):
    """Both classes of a picture with two, and no third: at least 95 of 100 fresh pictures."""
    rightly = []
    for sample in pictures(100, FRESH_SEED + 1):
        x, _ = to_tensor(sample.pixels, shapes.card.image)
        probabilities = shapes.probabilities(shapes.predict(x))[0]
        rightly.append(
            {CLASSES[index] for index in np.flatnonzero(probabilities > 0.5)}
            == {shape.label for shape in sample.shapes}
        )
    assert np.mean(rightly) >= 0.95


def test_grad_cam_of_shapes_is_the_class_activation_map(shapes):
    """Average pooling and one linear layer: the gradient is weight / (u v), so Grad-CAM follows from scores alone.

    The mean of the unclipped map over all places, times u v, is score minus bias; where the map is nowhere negative, the
    clipped map gives the same.
    """
    sample = next(pictures(1, FRESH_SEED))
    x, _ = to_tensor(sample.pixels, shapes.card.image)
    target = CLASSES.index(sample.shapes[0].label)
    run = shapes.at_layer(x, None)
    (gradient,) = run.gradient([target])
    channels = gradient.reshape(len(gradient), -1)
    assert np.ptp(channels, axis=1).max() <= 1e-6 * np.abs(channels).max()
    black = shapes.at_layer(x, None).tail(np.zeros((1, *run.activations.shape), np.float32))[0, target]
    assert np.isclose((gradient * run.activations).sum(), run.scores[target] - black, rtol=1e-4)


def test_samples_of_the_picture_models_are_what_they_are_called():
    for name in ("shapes", "digits"):
        model = load(MODELS / name, name=name, version="1", cancellation=Cancellation())
        assert model.card.samples
        for file in model.card.samples:
            x, _ = to_tensor(decode((MODELS / name / "samples" / file).read_bytes()), model.card.image)
            probabilities = model.probabilities(model.predict(x))[0]
            wanted = set(Path(file).stem.split("-and-"))
            best = np.argsort(-probabilities)[: len(wanted)]
            assert {model.card.classes[index] for index in best} == wanted


def test_the_demo_models_weigh_less_than_3_mb_together():
    assert sum(path.stat().st_size for path in MODELS.glob("*/model.onnx")) < 3e6
