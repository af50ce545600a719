"""Debugging with curl: exit statuses, pictures and tables as files, and words that help when a header is forgotten."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEMO_MODELS

STAR = DEMO_MODELS / "shapes" / "samples" / "star.jpg"
ROWS = DEMO_MODELS / "diabetes" / "samples" / "test.csv"
PICTURE_ROUTE = "/v1/models/shapes/explanations/gradcam"
TABLE_ROUTE = "/v1/models/diabetes/explanations/permutation-importance"


def curl(service: Any, route: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "--silent", "--fail-with-body", *arguments, service.url + route]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-F", f"image=@{STAR}"),
        ("-H", "Content-Type: image/jpeg", "--data-binary", f"@{STAR}"),
        ("-H", "Content-Type: application/octet-stream", "--data-binary", f"@{STAR}"),
        ("-X", "POST", "-H", "Content-Type: image/jpeg", "-T", str(STAR)),
    ],
)
def test_a_raw_body_or_a_form_goes_in_and_a_png_comes_out(
    service: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = tmp_path / "heatmap.png"
    done = curl(service, PICTURE_ROUTE, *arguments, "-H", "Accept: image/png", "-o", str(out))
    assert done.returncode == 0
    assert out.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_table_answer_is_csv_when_asked(service: Any) -> None:
    done = curl(service, f"{TABLE_ROUTE}?label=progression", "-F", f"table=@{ROWS}", "-H", "Accept: text/csv")
    assert done.returncode == 0
    head, *lines = done.stdout.decode().splitlines()
    assert head.startswith("metric,baseline,feature,mean,std,standard_error,ci95_low,ci95_high,repeat_1")
    assert len(lines) == 10


def test_json_is_the_answer_when_nothing_is_asked(service: Any) -> None:
    assert json.loads(curl(service, PICTURE_ROUTE, "-F", f"image=@{STAR}").stdout)["method"] == "gradcam"


@pytest.mark.parametrize(
    ("route", "arguments", "status", "help_in_detail"),
    [
        (PICTURE_ROUTE, ("--data-binary", f"@{STAR}"), 415, "curl -F image=@FILE"),
        (PICTURE_ROUTE, ("-H", "Content-Type:", "--data-binary", f"@{STAR}"), 415, "Content-Type"),
        (PICTURE_ROUTE, ("-d", '{"image": ""}'), 415, "application/json"),
        (PICTURE_ROUTE, ("-F", f"file=@{STAR}"), 400, "-F image=@FILE"),
        (PICTURE_ROUTE, ("-X", "POST"), 400, "multipart"),
        (PICTURE_ROUTE, ("-T", str(STAR)), 405, "It takes POST"),
        (PICTURE_ROUTE, (), 405, "It takes POST"),
        (PICTURE_ROUTE, ("-F", f"image=@{STAR}", "-H", "Accept: image/gif"), 406, "image/png"),
        (PICTURE_ROUTE, ("-F", f"image=@{ROWS}"), 400, "JPEG, PNG or WebP"),
        (TABLE_ROUTE, ("--data-binary", f"@{ROWS}"), 415, "curl -F table=@FILE"),
        (TABLE_ROUTE, ("-H", "Content-Type: text/csv", "--data-binary", f"@{ROWS}"), 422, "label"),
        ("/v1/models/shape/explanations/gradcam", ("-F", f"image=@{STAR}"), 404, "shapes"),
        ("/v1/explain", (), 404, "/docs"),
    ],
)
def test_a_mistake_exits_with_22_and_says_what_to_do(
    service: Any, route: str, arguments: tuple[str, ...], status: int, help_in_detail: str
) -> None:
    done = curl(service, route, *arguments)
    assert done.returncode == 22
    problem = json.loads(done.stdout)
    assert problem["status"] == status
    assert help_in_detail in problem["detail"]
