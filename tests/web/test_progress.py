"""How far an explanation has come, asked while it is under way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import sleep

from tests.conftest import DEMO_MODELS, Service

PICTURE = (DEMO_MODELS / "shapes" / "samples" / "heart.png").read_bytes()


def test_progress_of_a_long_explanation_grows_and_is_gone_when_it_is_answered(service: Service) -> None:
    """A forward-only method of a second or two is watched from outside by the ID that its caller chose."""

    def explain() -> int:
        return service.client.post(
            "/v1/models/shapes/explanations/rise",
            params={"samples": 3000, "seed": 3},
            content=PICTURE,
            headers={"Content-Type": "image/png", "X-Request-ID": "watched", "Cache-Control": "no-store"},
        ).status_code

    shares = []
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(explain)
        while not answer.done():
            seen = service.client.get("/v1/requests/watched").json()
            if seen["under_way"]:
                shares.append(seen["progress"])
            sleep(0.02)
    assert answer.result() == 200
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1
    assert len(set(shares)) >= 3
    gone = service.client.get("/v1/requests/watched").json()
    assert gone == {"request_id": "watched", "under_way": False, "progress": None}
