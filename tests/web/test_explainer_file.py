"""A model and its explanation as one ONNX file, over HTTP."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tests.conftest import DEMO_MODELS, Service

SAMPLE = DEMO_MODELS / "shapes" / "samples" / "heart-and-triangle.png"


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_the_file_gives_the_services_own_map_in_a_plain_runtime(service: Service, method: str) -> None:
    url = f"/v1/models/shapes/explanations/{method}?target=triangle&values=true"
    told = service.client.post(url, files={"image": SAMPLE.read_bytes()}).json()["explanations"][0]["values"]
    file = service.client.get(f"/v1/models/shapes/explainer.onnx?method={method}")
    assert file.headers["content-type"] == "application/octet-stream"
    pixels = np.asarray(Image.open(SAMPLE).convert("RGB"), np.float32).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
    inputs = {"picture": (pixels / 255 - 0.5) / 0.25, "target": np.array([2])}
    scores, heatmap = session.run(["scores", "heatmap"], inputs)
    assert scores.shape == (1, 6)
    np.testing.assert_allclose(heatmap[0], told, atol=1e-5)


@pytest.mark.parametrize(
    ("route", "status", "sentence"),
    [
        ("/v1/models/shapes/explainer.onnx?method=rise", 422, "gradcam"),
        ("/v1/models/diabetes/explainer.onnx", 422, "takes tables"),
        ("/v1/models/nothing/explainer.onnx", 404, "shapes"),
    ],
)
def test_where_there_is_no_such_file_the_reason_is_told(
    service: Service, route: str, status: int, sentence: str
) -> None:
    answer = service.client.get(route)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
