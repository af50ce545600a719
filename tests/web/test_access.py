"""Keys and hosts: who is let in, and with which words the others are turned away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from tests.conftest import Service, running

from onnxplain.settings import Settings

KEY, OTHER, ADMIN = "caller-key-0123456789", "second-key-0123456789", "admin-key-0123456789"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two keys, one of them given as its digest, an admin key, and uploads on."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    settings = {
        "api_keys": f"{KEY}, sha256:{hashlib.sha256(OTHER.encode()).hexdigest()}",
        "admin_key": ADMIN,
        "uploads": True,
        "workers": 1,
    }
    with running(folder / "log", models=folder / "models", **settings) as service:
        yield service


def _operations(service: Service) -> list[tuple[str, str]]:
    paths = service.client.get("/openapi.json").json()["paths"]
    named = {
        path.replace("{name}", "digits").replace("{file}", "7.png"): operations for path, operations in paths.items()
    }
    return [(method.upper(), path) for path, operations in named.items() for method in operations]


def test_every_operation_but_health_needs_a_key(guarded: Service) -> None:
    operations = _operations(guarded)
    assert len(operations) > 10
    for method, path in operations:
        status = guarded.client.request(method, path).status_code
        assert (status != 401) == path.startswith("/health/"), (method, path, status)


def test_a_missing_key_is_told_how_to_send_one(guarded: Service) -> None:
    answer = guarded.client.get("/v1/models")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_missing")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, OTHER, ADMIN])
def test_each_key_opens_the_service_in_either_header(guarded: Service, key: str) -> None:
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"X-API-Key": key}):
        assert guarded.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "key", [KEY[:-1], KEY + "x", KEY.upper(), "x", "é" * 20, hashlib.sha256(KEY.encode()).hexdigest()]
)
def test_a_key_that_is_none_is_refused(guarded: Service, key: str) -> None:
    answer = guarded.client.get("/v1/models", headers={"X-API-Key": key.encode()})
    assert (answer.status_code, answer.json()["code"]) == (403, "key_refused")


def test_only_the_admin_key_changes_models(guarded: Service) -> None:
    for key, code in ((KEY, "key_refused"), (OTHER, "key_refused"), (ADMIN, "model_not_found")):
        answer = guarded.client.delete("/v1/models/none", headers={"X-API-Key": key})
        assert answer.json()["code"] == code


def test_the_page_and_the_documentation_need_no_key(guarded: Service) -> None:
    for path in ("/", "/docs", "/openapi.json", "/static/swagger/swagger-ui.css", "/health/live", "/health/ready"):
        assert guarded.client.get(path).status_code in {200, 307}


def test_openapi_says_whether_a_key_is_needed(guarded: Service, service: Service) -> None:
    assert {} not in guarded.client.get("/openapi.json").json()["security"]
    assert {} in service.client.get("/openapi.json").json()["security"]


def test_no_key_stands_in_log_or_answers(guarded: Service) -> None:
    guarded.client.get("/v1/models", headers={"X-API-Key": KEY})
    assert not any(key in guarded.log.read_text() for key in (KEY, OTHER, ADMIN))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
def test_a_service_on_loopback_answers_for_no_other_name(service: Service, host: str) -> None:
    answer = service.client.get("/v1/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1"])
def test_a_service_on_loopback_answers_for_its_own_names(service: Service, host: str) -> None:
    assert service.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_without_keys_uploads_are_off(service: Service) -> None:
    for answer in (
        service.client.put("/v1/models/new", files={"model": b"x"}),
        service.client.delete("/v1/models/digits"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "uploads_off")
    assert service.client.get("/v1/models/digits").status_code == 200


@pytest.mark.parametrize(
    "settings",
    [{"api_keys": "short"}, {"api_keys": "sha256:12"}, {"uploads": True}, {"timeout": 700.0}, {"workers": 0}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"ONNXPLAIN_|key|workers"):
        Settings(**settings)


def test_a_key_is_not_printed_with_the_settings() -> None:
    assert KEY not in repr(Settings(api_keys=KEY, admin_key=ADMIN))
