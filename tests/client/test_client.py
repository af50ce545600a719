"""The client against the real service, and against a server that is busy, broken, or not one of ours."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx
import numpy as np
import pandas as pd
import pytest
from tests.conftest import DEMO_MODELS

from onnxplain_client import AsyncClient, Client, ServiceError

PICTURE = DEMO_MODELS / "shapes" / "samples" / "heart-and-triangle.png"
TABLE = DEMO_MODELS / "diabetes" / "samples" / "test.csv"


@pytest.fixture(scope="module")
def client(service: Any) -> Iterator[Client]:
    with Client(service.url) as connected:
        yield connected


def test_models_are_listed_and_described(client: Client) -> None:
    assert {"digits", "shapes"} <= {model["name"] for model in client.models()}
    assert client.model("shapes")["classes"][0] == "circle"


def test_a_picture_is_explained_class_by_class(client: Client) -> None:
    found = client.explain_picture("shapes", PICTURE, target=["heart", "triangle"], values=True)
    assert [explanation.target.label for explanation in found.explanations] == ["heart", "triangle"]
    assert found.method == "gradcam"
    assert found.gradient == "exact"
    raw = found.explanations[0].values  # noqa: PD011 - an array of ours
    assert raw is not None
    assert found.first.layer_shape is not None
    assert raw.dtype == np.float32
    assert raw.shape == found.first.layer_shape[1:]
    assert raw.max() == pytest.approx(found.first.maximum)


def test_pictures_come_as_arrays_as_large_as_the_picture(client: Client) -> None:
    found = client.explain_picture("shapes", PICTURE.read_bytes(), method="layercam", colormap="viridis")
    assert found.first.heatmap.shape == (96, 96)
    assert found.first.heatmap.dtype == np.uint8
    assert found.first.heatmap.max() == 255
    assert found.first.overlay.shape == (96, 96, 3)


def test_an_overlay_is_saved_as_it_came(client: Client, tmp_path: Any) -> None:
    found = client.explain_picture("shapes", str(PICTURE))
    found.first.save(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes() == found.first.overlay_png


def _rows() -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_csv(TABLE)
    return table.drop(columns="progression"), table["progression"]


def test_a_data_frame_is_sent_by_column_name(client: Client) -> None:
    """Columns in another order give the same importances, for they go by name."""
    rows, labels = _rows()
    straight = client.explain_table("diabetes", rows, labels, metrics=["r2"])
    turned = client.explain_table("diabetes", rows[rows.columns[::-1]], labels, metrics=["r2"])
    assert straight.importances["r2"][0].feature == "age"
    for one, other in zip(straight.importances["r2"], turned.importances["r2"], strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_an_array_a_list_and_the_registered_data_are_the_same_table(client: Client) -> None:
    rows, labels = _rows()
    registered = client.explain_table("diabetes", metrics=["mae"], n_repeats=3)
    for same in (rows.to_numpy(), rows.to_numpy().tolist(), rows.to_dict("records")):
        found = client.explain_table("diabetes", same, labels.tolist(), metrics=["mae"], n_repeats=3)
        assert found.n_rows == len(rows)
        for one, other in zip(found.importances["mae"], registered.importances["mae"], strict=True):
            np.testing.assert_array_equal(one.values, other.values)


def test_a_missing_value_is_missing_however_it_is_written(client: Client) -> None:
    """NaN in an array, NA in a DataFrame and None in a list give the same, and not what zero gives."""
    table = pd.read_csv(DEMO_MODELS / "breast-cancer" / "samples" / "test.csv")
    rows, labels = table.drop(columns="diagnosis"), table["diagnosis"]
    rows.loc[:40, "worst_area"] = np.nan
    absent = rows.astype(object).where(rows.notna(), None)

    def ranking(sent: Any) -> Any:
        return client.explain_table("breast-cancer", sent, labels, metrics=["log_loss"]).document["importances"]

    expected = ranking(rows.to_numpy())
    assert ranking(absent.where(rows.notna(), pd.NA)) == expected
    assert ranking(absent.to_numpy().tolist()) == expected
    assert ranking(rows.fillna(0)) != expected


def test_predictions_that_are_no_numbers_are_refused_not_measured(client: Client) -> None:
    """This network takes a missing value and answers NaN; a score of that would be none."""
    rows, labels = _rows()
    rows.loc[2, "bmi"] = np.nan
    with pytest.raises(ServiceError, match="no finite number for 1 rows, the first of them row 3"):
        client.explain_table("diabetes", rows, labels)


def test_what_is_no_cell_is_not_sent(client: Client) -> None:
    with pytest.raises(TypeError, match="object"):
        client.explain_table("diabetes", [[object()]])


def test_a_table_is_a_data_frame_with_the_most_important_first(client: Client) -> None:
    found = client.explain_table("breast-cancer", metrics=["accuracy", "log_loss"])
    frame = found.as_dataframe()
    assert list(frame.columns) == ["metric", "feature", "mean", "std", "standard_error", "ci95_low", "ci95_high"]
    assert len(frame) == 60
    losses = frame[frame["metric"] == "log_loss"]
    assert losses["mean"].is_monotonic_decreasing
    assert losses["feature"].iloc[0] == found.ranking["log_loss"][0]


def test_predictions_of_a_picture_and_of_rows(client: Client) -> None:
    rows, _ = _rows()
    assert client.predict("shapes", PICTURE)
    assert len(client.predict("diabetes", rows=rows)) == len(rows)


def test_the_async_client_gives_the_same(client: Client, service: Any) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncClient(service.url) as connected:
            return await asyncio.gather(
                connected.models(),
                connected.model("digits"),
                connected.explain_picture("shapes", PICTURE),
                connected.explain_table("diabetes", metrics=["r2"]),
                connected.predict("shapes", PICTURE),
            )

    models, card, picture, table, predictions = asyncio.run(ask())
    assert models == client.models()
    assert card["name"] == "digits"
    assert picture.first.overlay_png == client.explain_picture("shapes", PICTURE).first.overlay_png
    assert table.ranking == client.explain_table("diabetes", metrics=["r2"]).ranking
    assert predictions == client.predict("shapes", PICTURE)


def test_a_refusal_is_an_error_with_the_services_own_sentence(client: Client) -> None:
    with pytest.raises(ServiceError, match="No model is registered") as raised:
        client.explain_picture("nothing", PICTURE)
    error = raised.value
    assert (error.status, error.code, error.title) == (404, "model_not_found", "Unknown model")
    assert error.request_id
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


# ---- a server that is not well --------------------------------------------------------------------------------------


class Moody(ThreadingHTTPServer):
    """Answers with what it was told, one after the other, and remembers when it was asked and with which headers."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.asked: list[tuple[float, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Moody

    def do_GET(self) -> None:
        self.server.asked.append((time.monotonic(), dict(self.headers)))
        status, headers, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


PROBLEM = {
    "type": "urn:x",
    "title": "The service is busy",
    "detail": "Try again in 1 s.",
    "code": "busy",
    "request_id": "a1",
}
BUSY = (503, {"Retry-After": "0"}, json.dumps(PROBLEM).encode())
FINE = (200, {}, b'{"models": []}')


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(status: int) -> None:
    with Moody((status, *BUSY[1:]), (status, *BUSY[1:]), FINE) as server, Client(server.url) as client:
        assert client.models() == []
        assert len(server.asked) == 3


def test_the_client_waits_as_long_as_it_is_told() -> None:
    with Moody((503, {"Retry-After": "1"}, b"{}"), FINE) as server, Client(server.url) as client:
        client.models()
        (first, _), (second, _) = server.asked
        assert 1.0 <= second - first < 2.0


def test_the_async_client_waits_too() -> None:
    async def ask(url: str) -> list[Any]:
        async with AsyncClient(url) as client:
            return await client.models()

    with Moody(BUSY, FINE) as server:
        assert asyncio.run(ask(server.url)) == []
        assert len(server.asked) == 2


def test_patience_ends() -> None:
    with Moody(*[BUSY] * 3) as server, Client(server.url, retries=2) as client:
        with pytest.raises(ServiceError, match="Try again") as raised:
            client.models()
        assert raised.value.code == "busy"
        assert len(server.asked) == 3


def test_a_mistake_is_not_repeated() -> None:
    with (
        Moody((422, {}, json.dumps(PROBLEM | {"code": "bad_parameter"}).encode())) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(ServiceError):
            client.models()
        assert len(server.asked) == 1


def test_an_answer_of_somebody_else_is_an_error_too() -> None:
    with Moody((502, {}, b"<html>")) as server, Client(server.url) as client, pytest.raises(ServiceError, match="502"):
        client.models()


def test_the_service_is_told_key_and_deadline() -> None:
    with Moody(FINE) as server, Client(server.url, api_key="a-key", timeout=12.5) as client:
        client.models()
        _, headers = server.asked[0]
        assert headers["Authorization"] == "Bearer a-key"
        assert headers["X-Request-Timeout"] == "12.5"


def test_a_service_that_is_not_there_is_tried_again_and_then_an_error() -> None:
    with Moody() as server:
        url = server.url
    started = time.monotonic()
    with Client(url, retries=1) as client, pytest.raises(httpx.ConnectError):
        client.models()
    assert time.monotonic() - started >= 0.25
