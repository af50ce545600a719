"""The whole service over real sockets: true answers on real input, and a clear refusal for everything else."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from PIL import Image
from tests.conftest import DEMO_MODELS, Service

SHAPES = DEMO_MODELS / "shapes" / "samples"
TABLE = "/v1/models/breast-cancer/explanations/permutation-importance"
PICTURE = "/v1/models/shapes/explanations/gradcam"


def png(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, **({"format": "PNG"} | options))
    return stream.getvalue()


def picture_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def explain(service: Service, body: bytes, media_type: str = "image/png", **query: object) -> dict:
    answer = service.client.post(PICTURE, content=body, headers={"Content-Type": media_type}, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_problem(answer, statuses: tuple[int, ...]) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 4096
    problem = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["status"] == answer.status_code
    assert problem["detail"].endswith(".")
    assert "Traceback" not in problem["detail"]
    assert "0x" not in problem["detail"]


def test_multipart_raw_bytes_and_json_give_the_same_heatmap(service):
    body = (SHAPES / "heart.png").read_bytes()
    raw = explain(service, body)
    form = service.client.post(PICTURE, files={"image": ("heart.png", body, "image/png")}).json()
    document = service.client.post(PICTURE, json={"image": base64.b64encode(body).decode()}).json()
    assert raw["explanations"] == form["explanations"] == document["explanations"]
    assert raw["explanations"][0]["target"]["label"] == "heart"
    assert raw["gradient"]["source"] == "exact"


def test_the_png_answer_is_the_overlay_of_the_json_answer(service):
    body = (SHAPES / "heart.png").read_bytes()
    headers = {"Content-Type": "image/png", "Accept": "image/png"}
    answer = service.client.post(PICTURE, content=body, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-onnxplain-label"] == "heart"
    assert answer.content == base64.b64decode(explain(service, body)["explanations"][0]["overlay"])


def test_the_png_answer_obeys_the_options_of_a_json_body(service):
    """Of several targets the first is shown, as the picture that `output` names."""
    body = (SHAPES / "heart.png").read_bytes()
    document = {"image": base64.b64encode(body).decode(), "target": ["star", "heart"], "output": "heatmap"}
    answer = service.client.post(PICTURE, json=document, headers={"Accept": "image/png"})
    assert answer.headers["x-onnxplain-label"] == "star"
    first, _ = explain(service, body, target=["star", "heart"])["explanations"]
    assert answer.content == base64.b64decode(first["heatmap"])


def test_gradcam_of_a_pooled_linear_head_is_the_class_activation_map(service):
    """Behind the layer stand a mean over places and a matrix W: the gradient is W/(uv), so the map is ReLU(W A)/(uv)."""
    explanation = explain(service, (SHAPES / "heart.png").read_bytes(), values=True, target=["heart"])["explanations"][
        0
    ]
    model = onnx.load(DEMO_MODELS / "shapes" / "model.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (head,) = (node for node in model.graph.node if node.op_type == "Gemm")
    layer = explanation["layer"]["name"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(layer, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.asarray(Image.open(SHAPES / "heart.png").convert("RGB"), np.float32) / 255
    (activations,) = session.run([layer], {"picture": ((pixels - 0.5) / 0.25).transpose(2, 0, 1)[None]})
    w = weights[head.input[1]][explanation["target"]["index"]]
    expected = np.maximum(np.einsum("c,cuv->uv", w, activations[0]), 0) / activations[0, 0].size
    np.testing.assert_allclose(explanation["values"], expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert explanation["maximum"] == pytest.approx(expected.max(), rel=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_gets_the_heatmap_of_the_upright_one(service, orientation):
    """EXIF orientation is applied before anything else: the same pixels, stored in any of eight ways, answer alike."""
    upright = Image.open(SHAPES / "heart-and-triangle.png").convert("RGB")
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    rotated = explain(service, png(stored, exif=exif))
    reference = explain(service, png(upright))
    assert rotated["explanations"] == reference["explanations"]


def test_sixteen_bits_a_channel_are_scaled_and_not_clipped(service):
    """A grey picture of 8 bits, times 257, is the same picture in 16 bits."""
    grey = np.asarray(Image.open(SHAPES / "heart.png").convert("L"))
    eight = explain(service, png(Image.fromarray(grey)))
    sixteen = explain(service, png(Image.fromarray(grey.astype(np.uint16) * 257)))
    assert sixteen["explanations"] == eight["explanations"]


def test_a_cmyk_jpeg_shows_the_same_shape_in_the_same_place(service):
    upright = Image.open(SHAPES / "heart.png").convert("RGB")
    answer = explain(service, png(upright.convert("CMYK"), format="JPEG", quality=95), "image/jpeg", target=["heart"])
    reference = explain(service, png(upright), target=["heart"])
    peaks = [
        np.unravel_index(picture_of(a["explanations"][0]["heatmap"]).argmax(), (96, 96)) for a in (answer, reference)
    ]
    assert np.abs(np.subtract(*peaks)).max() <= 8


def test_the_heatmap_is_as_large_as_the_picture_that_was_sent(service):
    tall = Image.open(SHAPES / "heart.png").convert("RGB").resize((130, 311))
    (explanation,) = explain(service, png(tall))["explanations"]
    assert picture_of(explanation["heatmap"]).shape == (311, 130)
    assert picture_of(explanation["overlay"]).shape == (311, 130, 3)


def gif() -> bytes:
    return png(Image.new("RGB", (96, 96), "red"), format="GIF")


@pytest.mark.parametrize(
    ("body", "media_type", "statuses"),
    [
        (b"", "image/png", (400,)),
        (b"not a picture", "image/png", (400, 415, 422)),
        (gif(), "image/gif", (415,)),
        (gif(), "image/png", (400, 415)),
        (png(Image.new("RGB", (96, 96)), format="JPEG")[:300], "image/jpeg", (400, 422)),
        (png(Image.new("RGB", (96, 96))), "image/jpeg", (400,)),
        (png(Image.new("1", (13377, 13377))), "image/png", (413,)),
        (b'{"image": "%%%"}', "application/json", (400, 422)),
        (b'{"image": "aGFsbG8="}', "application/json", (400, 415, 422)),
        (b'{"picture": ""}', "application/json", (400, 422)),
        (b'{"image": 7}', "application/json", (400, 422)),
        (b"[]", "application/json", (400, 422)),
        (b'{"image": NaN}', "application/json", (400,)),
        (b"x=1", "application/x-www-form-urlencoded", (415,)),
        (b"--", "multipart/form-data; boundary=b", (400,)),
    ],
)
def test_a_body_that_is_no_picture_is_refused_with_a_sentence(service, body, media_type, statuses):
    answer = service.client.post(PICTURE, content=body, headers={"Content-Type": media_type})
    assert_problem(answer, statuses)


def test_a_picture_of_one_pixel_is_explained_in_its_own_size(service):
    (explanation,) = explain(service, png(Image.new("RGB", (1, 1))))["explanations"]
    assert picture_of(explanation["heatmap"]).shape == (1, 1)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/nobody/explanations/gradcam", 404),
        ("/v1/models/../explanations/gradcam", 404),
        ("/v1/models/UPPER/explanations/gradcam", 422),
        ("/v1/models/shapes/explanations/nothing", 404),
        ("/v1/models/breast-cancer/explanations/gradcam", 422),
        ("/v1/models/shapes/explanations/permutation-importance", 422),
        ("/v1/models/shapes/explanations/gradcam?layer=nowhere", 404),
        ("/v1/models/shapes/explanations/gradcam?target=unicorn", 422),
        ("/v1/models/shapes/explanations/gradcam?target=6", 422),
        ("/v1/models/shapes/explanations/gradcam?top_k=0", 422),
        ("/v1/models/shapes/explanations/gradcam?alpha=2", 422),
        ("/v1/models/shapes/explanations/gradcam?alpha=nan", 422),
        ("/v1/models/shapes/explanations/gradcam?colour=red", 422),
    ],
)
def test_a_request_for_what_is_not_there_is_refused(service, path, status):
    body = (SHAPES / "heart.png").read_bytes()
    assert_problem(service.client.post(path, content=body, headers={"Content-Type": "image/png"}), (status,))


def rows(count: int = 3, width: int = 30) -> list[list[float]]:
    return np.linspace(0.5, 20.0, count * width).reshape(count, width).tolist()


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (json.dumps({"rows": rows(width=29), "labels": ["benign"] * 3}), (422,)),
        (json.dumps({"rows": [rows()[0], rows()[0][:-1]], "labels": ["benign"] * 2}), (422,)),
        (json.dumps({"rows": [["wide", *rows()[0][1:]]], "labels": ["benign"]}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 2}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign", "malignant", "unheard of"]}), (422,)),
        (json.dumps({"rows": [], "labels": []}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3, "columns": ["a"] * 30}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3, "metrics": ["beauty"]}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3, "n_repeats": 0}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3, "surprise": 1}), (422,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3}).replace("0.5", "NaN", 1), (400,)),
        (json.dumps({"rows": rows(), "labels": ["benign"] * 3}).replace("0.5", "1e400", 1), (400,)),
        ('{"rows": [[1, 2', (400,)),
        ('{"rows": [[1]], "rows": [[1]]}', (400,)),
        ("7", (400, 422)),
    ],
)
def test_a_table_that_the_model_cannot_take_is_refused(service, body, statuses):
    answer = service.client.post(TABLE, content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, statuses)


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (b"a,b\n", "?label=b"),
        (b"a,b\n1,2\n", "?label=c"),
        (b"a,b\n1,2\n", ""),
        (b'a,b\n1,"2\n', "?label=b"),
        (b"\xff\xfe\x00", "?label=b"),
    ],
)
def test_a_csv_that_the_model_cannot_take_is_refused(service, body, query):
    answer = service.client.post(TABLE + query, content=body, headers={"Content-Type": "text/csv"})
    assert_problem(answer, (400, 422))


def test_csv_and_json_of_the_same_table_give_the_same_importances(service):
    text = (DEMO_MODELS / "breast-cancer" / "samples" / "test.csv").read_text()
    header, *lines = text.strip().split("\n")
    names = header.split(",")
    card = service.client.get("/v1/models/breast-cancer").json()
    (label,) = set(names) - {feature["name"] for feature in card["features"]}
    at = names.index(label)
    cells = [line.split(",") for line in lines]
    document = {
        "columns": [name for name in names if name != label],
        "rows": [[float(cell) for i, cell in enumerate(line) if i != at] for line in cells],
        "labels": [line[at] for line in cells],
    }
    from_csv = service.client.post(TABLE, params={"label": label}, content=text, headers={"Content-Type": "text/csv"})
    from_json = service.client.post(TABLE, json=document)
    assert from_csv.status_code == from_json.status_code == 200, from_csv.text + from_json.text
    assert from_csv.json()["importances"] == from_json.json()["importances"]
    # Without a body the model's own evaluation data are used, which are that very file.
    assert service.client.post(TABLE).json()["importances"] == from_csv.json()["importances"]


def test_a_table_is_explained_within_max_seconds(service):
    started = time.monotonic()
    answer = service.client.post(TABLE, json={"n_repeats": 10_000, "max_seconds": 0.5})
    assert time.monotonic() - started < 5  # a busy machine; 0.6 s on a free one
    assert answer.status_code == 200, answer.text
    document = answer.json()
    repeats = [len(entry["values"]) for entry in document["importances"]["accuracy"]]
    assert 1 <= min(repeats) <= max(repeats) < 10_000
    assert any("max_seconds ended the work early" in warning for warning in document["warnings"])
