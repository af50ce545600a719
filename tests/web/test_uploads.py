"""Models over HTTP: registered, replaced and removed in one step, or refused without a trace."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests import graphs
from tests.conftest import Service, eventually, running

ADMIN = {"X-API-Key": "admin-key-0123456789"}


def linear(slope: float) -> bytes:
    """A model that says `slope` times x."""
    x = graphs.value("x", np.zeros((1, 1), np.float32), dynamic_batch=True)
    nodes = [graphs.node("Mul", ["x", "slope"], ["y"])]
    y = graphs.value("y", np.zeros((1, 1), np.float32), dynamic_batch=True)
    return graphs.model(nodes, [x], [y], {"slope": np.array([slope], np.float32)}).SerializeToString()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of the operator's."""
    folder = tmp_path_factory.mktemp("uploads") / "models"
    for name in ("mine", "replaced", "swapped"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(linear(1))
    return folder


@pytest.fixture(scope="module")
def open_service(models: Path) -> Iterator[Service]:
    """A service that takes uploads."""
    settings = {"uploads": True, "admin_key": ADMIN["X-API-Key"]}
    with running(models.parent / "log", models=models, **settings) as service:
        yield service


def put(service: Service, name: str, model: bytes, manifest: bytes | None = None) -> httpx.Response:
    files = {"model": model} | ({} if manifest is None else {"manifest": manifest})
    return service.client.put(f"/v1/models/{name}", files=files, headers=ADMIN)


def predict(service: Service, name: str, x: float) -> httpx.Response:
    return service.client.post(
        f"/v1/models/{name}/predictions", json={"rows": [[x]]}, headers={"Cache-Control": "no-store"}
    )


def test_a_model_is_registered_replaced_and_removed_and_survives_a_restart(open_service: Service, models: Path) -> None:
    created = put(open_service, "new", linear(2))
    assert (created.status_code, created.json()["version"]) == (201, "1")
    assert created.json()["sha256"] == hashlib.sha256(linear(2)).hexdigest()
    assert predict(open_service, "new", 3).json()["predictions"] == [6]

    replaced = put(open_service, "new", linear(5), b'description = "five"')
    assert (replaced.status_code, replaced.json()["version"], replaced.json()["description"]) == (200, "2", "five")
    assert predict(open_service, "new", 3).json()["predictions"] == [15]

    assert put(open_service, "replaced", linear(7)).json()["version"] == "2"
    assert predict(open_service, "replaced", 3).json()["predictions"] == [21]

    with running(models.parent / "log2", models=models) as again:
        assert predict(again, "new", 3).json()["predictions"] == [15]
        assert predict(again, "replaced", 3).json()["predictions"] == [21]

    for name in ("new", "replaced"):
        assert open_service.client.delete(f"/v1/models/{name}", headers=ADMIN).status_code == 204
        assert predict(open_service, name, 3).json()["code"] == "model_not_found"
    assert (models / "replaced" / "model.onnx").read_bytes() == linear(1)


def test_a_manifest_alone_makes_a_new_version_of_the_same_graph(open_service: Service) -> None:
    put(open_service, "named", linear(2))
    answer = put(open_service, "named", linear(2), b'[tabular]\nfeatures = ["width"]')
    assert [feature["name"] for feature in answer.json()["features"]] == ["width"]
    rows = {"rows": [{"width": 4}]}
    assert open_service.client.post("/v1/models/named/predictions", json=rows).json()["predictions"] == [8]


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"model": b""}, 400),
        ({"other": linear(1)}, 400),
        ({"model": b"no model at all"}, 422),
        ({"model": linear(1)[:-9]}, 422),
        ({"model": linear(1), "manifest": b"kind = 'fish'"}, 422),
        ({"model": linear(1), "manifest": b"\xff"}, 422),
        ({"model": linear(1), "manifest": b"classes_file = '/etc/passwd'"}, 422),
        ({"model": linear(1), "manifest": b"#" * (2**20 + 1)}, 400),
        ({"model": linear(1), "manifest": b"", "more": b"x"}, 400),
    ],
    ids=["empty", "other", "text", "cut", "manifest", "not utf-8", "outside", "long", "three files"],
)
def test_what_is_refused_leaves_the_registry_and_the_store_as_they_were(
    open_service: Service, models: Path, files: dict[str, bytes], status: int
) -> None:
    files_before = sorted(models.rglob("*"))
    before = open_service.client.get("/v1/models").json()
    answer = open_service.client.put("/v1/models/mine", files=files, headers=ADMIN)
    assert answer.status_code == status
    assert open_service.client.get("/v1/models").json() == before
    assert predict(open_service, "mine", 3).json()["predictions"] == [3]
    assert [path for path in sorted(models.rglob("*")) if path.is_file()] == [
        path for path in files_before if path.is_file()
    ]


def test_a_form_is_needed(open_service: Service) -> None:
    answer = open_service.client.put("/v1/models/mine", content=linear(1), headers=ADMIN)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("name", ["..", "%2e%2e", "UPPER", ".store", "a%2fb", "a" * 65, "a%00"])
def test_a_hostile_name_reaches_no_file(open_service: Service, models: Path, name: str) -> None:
    before = sorted(models.glob("*")), sorted(models.parent.glob("*"))
    assert put(open_service, name, linear(1)).status_code in {404, 405, 422}
    assert (sorted(models.glob("*")), sorted(models.parent.glob("*"))) == before


def test_swaps_under_load_lose_no_request_and_every_answer_names_the_file_that_made_it(open_service: Service) -> None:
    slopes = {hashlib.sha256(linear(slope)).hexdigest(): slope for slope in range(1, 10)}
    stop = threading.Event()
    wrong: list[str] = []
    count = 0

    def ask() -> None:
        nonlocal count
        with httpx.Client(base_url=open_service.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post(
                    "/v1/models/swapped/predictions", json={"rows": [[3]]}, headers={"Cache-Control": "no-store"}
                )
                count += 1
                right = answer.status_code == 200 and answer.json()["predictions"] == [
                    3 * slopes[answer.json()["model"]["sha256"]]
                ]
                if not right:
                    wrong.append(answer.text)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for slope in range(2, 8):
        assert put(open_service, "swapped", linear(slope)).status_code == 200
    stop.set()
    for client in clients:
        client.join()
    assert not wrong[:3]
    assert count > 20


def test_two_changes_of_one_name_at_once_conflict(open_service: Service) -> None:
    answers: list[httpx.Response] = []
    changes = [
        threading.Thread(target=lambda slope=slope: answers.append(put(open_service, "twice", linear(slope))))
        for slope in (2, 3)
    ]
    for change in changes:
        change.start()
    for change in changes:
        change.join()
    assert sorted(answer.status_code for answer in answers) == [201, 409]


def test_a_watched_folder_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "seen"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(linear(1))

    def says(name: str) -> object:
        return predict(service, name, 3).json().get("predictions")

    with running(tmp_path / "log", models=tmp_path / "models", watch=0.1) as service:
        assert says("seen") == [3]
        (folder / "model.onnx").write_bytes(linear(4))
        eventually(lambda: says("seen") == [12], 10)

        (folder / "model.onnx").write_bytes(b"half a mod")
        eventually(lambda: service.lines("changed, but what was served still is"), 10)
        assert says("seen") == [12]

        (folder / "model.toml").write_text('[tabular]\nfeatures = ["a"]')
        (folder / "model.onnx").write_bytes(linear(6))
        eventually(lambda: says("seen") == [18], 10)

        other = tmp_path / "models" / "other"
        other.mkdir()
        (other / "model.onnx").write_bytes(linear(9))
        eventually(lambda: says("other") == [27], 10)

        (other / "model.onnx").unlink()
        eventually(lambda: says("other") is None, 10)


def test_versions_that_nobody_uses_any_more_leave_the_disk(tmp_path: Path) -> None:
    """After a crash: what no pointer names is deleted at the next start."""
    store = tmp_path / "models" / ".store"
    for place in ("new/0123", ".incoming/4567"):
        (store / place).mkdir(parents=True)
        (store / place / "model.onnx").write_bytes(linear(1))
    (store / "new" / "current.json").write_text(json.dumps({"digest": "gone", "version": 1}))
    with running(tmp_path / "log", models=tmp_path / "models", workers=1) as service:
        assert service.client.get("/v1/models").json() == {"models": []}
    assert not list(store.rglob("model.onnx"))
