"""A picture task from its body to its answer, on the demo models: how targets are named, what comes back, what is refused."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxplain.explain.picture import explain_picture, explainer_model, predict_picture
from onnxplain.facts.errors import BadParameter, Cancelled, MalformedInput, MethodNotApplicable
from onnxplain.facts.tasks import ExplainerFileTask, ExplainTask, ModelRef, PictureExplanation, PredictTask
from onnxplain.model import Cancellation, ImageModel, load

MODELS = Path(__file__).parents[2] / "models"
PICTURE = (MODELS / "shapes" / "samples" / "cross-and-square.png").read_bytes()


@cache
def shapes() -> ImageModel:
    model = load(MODELS / "shapes", name="shapes", cancellation=Cancellation())
    assert isinstance(model, ImageModel)
    return model


def task(method: str = "gradcam", body: bytes = PICTURE, media_type: str = "image/png", **options: Any) -> ExplainTask:
    return ExplainTask(ModelRef("shapes", str(MODELS / "shapes")), method, media_type, body, options)


def explain(
    method: str = "gradcam", body: bytes = PICTURE, media_type: str = "image/png", **options: Any
) -> PictureExplanation:
    return explain_picture(task(method, body, media_type, **options), shapes(), lambda _: None)


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_cancel_is_heard_while_pictures_are_drawn() -> None:
    """Six heatmaps of eight megapixels take a second; what was cancelled ends after the one that is being drawn."""
    stream = io.BytesIO()
    Image.effect_noise((2800, 2800), 60).convert("RGB").save(stream, "PNG", compress_level=1)
    cancellation = shapes().cancellation
    began = time.monotonic()
    timer = threading.Timer(0.4, cancellation.cancel)
    timer.start()
    try:
        with pytest.raises(Cancelled):
            explain(body=stream.getvalue(), top_k=6)
        assert time.monotonic() - began < 3
    finally:
        timer.join()
        cancellation.reset()


def test_an_explanation_has_pictures_as_large_as_the_one_sent() -> None:
    """A grey heatmap whose brightest pixel is white, and an overlay in colour."""
    answer = explain(values=True)
    (found,) = answer.explanations
    size = Image.open(io.BytesIO(PICTURE)).size
    assert pixels(found.heatmap).shape == size[::-1]
    assert pixels(found.heatmap).max() == 255
    assert pixels(found.overlay).shape == (*size[::-1], 3)
    assert found.maximum == pytest.approx(np.max(found.values))
    assert np.shape(found.values) == found.layer_shape[1:]
    assert found.target == answer.predictions[0]
    assert answer.gradient.source == "exact"
    assert set(answer.timings_ms) == {"decode", "run", "render"}


def test_pictures_are_made_only_where_they_are_wanted() -> None:
    """Numbers alone cost no rendering."""
    wanted = ExplainTask(**{**task(values=True).__dict__, "draw": "none"})
    (found,) = explain_picture(wanted, shapes(), lambda _: None).explanations
    assert found.heatmap is None
    assert found.overlay is None
    assert found.values is not None


def test_a_class_is_named_by_label_or_number() -> None:
    """Both give the same map, and several come in the order asked for, each once."""
    label = shapes().card.classes[4]
    by_label, by_number = explain(target=(label,), values=True), explain(target=("4",), values=True)
    assert by_label.explanations[0].values == by_number.explanations[0].values
    several = explain(target=("5", label, "5"))
    assert [found.target.index for found in several.explanations] == [5, 4]


def test_the_best_classes_come_best_first() -> None:
    """As the predictions are ordered."""
    answer = explain(top_k=3)
    assert [found.target for found in answer.explanations] == list(answer.predictions[:3])


def test_json_carries_picture_and_options() -> None:
    """Base64 with line breaks, a number as target; the keys win over the query string."""
    document = {"image": base64.encodebytes(PICTURE).decode(), "target": 4, "values": True}
    answer = explain(body=json.dumps(document).encode(), media_type="application/json", target=("1",))
    assert [found.target.index for found in answer.explanations] == [4]
    assert answer.explanations[0].values == explain(target=("4",), values=True).explanations[0].values


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (BadParameter, {"target": ("nothing",)}),
        (BadParameter, {"target": ("6",)}),
        (BadParameter, {"target": ("-1",)}),
        (BadParameter, {"target": ("1",), "top_k": 2}),
        (BadParameter, {"top_k": 0}),
        (BadParameter, {"steps": 3}),
        (MalformedInput, {"body": b""}),
        (MalformedInput, {"body": b"{}", "media_type": "application/json"}),
        (MalformedInput, {"body": b'{"image": "***"}', "media_type": "application/json"}),
    ],
)
def test_what_cannot_be_used_is_refused(error: type[Exception], given: dict[str, Any]) -> None:
    """With a domain error, before the model runs."""
    with pytest.raises(error):
        explain(**given)


def test_predictions_are_best_first_and_probable() -> None:
    """What `predict` says of the picture, with probabilities in the same order."""
    (row,) = predict_picture(PredictTask(ModelRef("shapes", ""), "image/png", PICTURE), shapes()).rows
    scores = [prediction.score for prediction in row]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= prediction.probability <= 1 for prediction in row)
    assert {row[0].label, row[1].label} == {"cross", "square"}


def test_an_explainer_file_is_made_only_of_methods_that_fit_a_graph() -> None:
    """Others are refused by name."""
    assert len(explainer_model(_file("hirescam"), shapes()).content) > 1000
    with pytest.raises(MethodNotApplicable, match="rise"):
        explainer_model(_file("rise"), shapes())


def _file(method: str) -> ExplainerFileTask:
    return ExplainerFileTask(ModelRef("shapes", str(MODELS / "shapes")), method)
