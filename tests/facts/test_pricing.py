"""What a picture method costs in forward runs of the model, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from onnxplain.facts.cards import GradientFact, ImageSpec, Layer, ModelCard
from onnxplain.facts.methods import METHODS
from onnxplain.facts.options import checked

CARD = ModelCard(
    name="m",
    version="1",
    sha256="",
    kind="image",
    task="classification",
    description="",
    inputs=(),
    outputs=(),
    score_output="y",
    image=ImageSpec(size=(32, 48), mode="RGB", layout="NCHW", scale=255.0, mean=(0.0,) * 3, std=(1.0,) * 3),
    layers=(Layer("early", (16, 16, 24), "Relu"), Layer("late", (64, 8, 12), "Relu", default=True)),
    gradient=GradientFact(),
    forward_ms=1.0,
)
TWO = {"target": ["0", "1"]}

# A gradient at the input costs four runs, a run behind a layer a fiftieth of one. The occlusion covers 32 x 48 pixels by windows
# of 4 every 2: 15 rows of 23 squares. RISE, smoothgrad and integrated gradients take 500, 25 and 32 samples by default.
PRICES: list[tuple[str, dict[str, Any], float]] = [
    ("gradcam", {}, 1.02),
    ("gradcam", TWO, 1.04),
    ("gradcam", {"aug_smooth": True}, 1 + 6 + 6 * 0.02),
    ("hirescam", {"top_k": 5}, 1.1),
    ("gradcam-elementwise", {}, 1.02),
    ("gradcam-plusplus", {}, 1.02),
    ("xgradcam", {}, 1.02),
    ("layercam", {}, 1.02),
    ("eigencam", {}, 1.02),
    ("eigengradcam", {}, 1.02),
    ("activation", {}, 1.02),
    ("scorecam", {}, 1 + 64),
    ("scorecam", TWO, 1 + 64),
    ("scorecam", {"layer": "early"}, 1 + 16),
    ("scorecam", {"aug_smooth": True}, 1 + 6 + 6 * 64),
    ("ablationcam", {}, 1 + 64 * 0.02),
    ("saliency", {}, 5),
    ("saliency", TWO, 9),
    ("input-x-gradient", {}, 5),
    ("fullgrad", {}, 9),
    ("integrated-gradients", {}, 1 + 32 * 4),
    ("integrated-gradients", {"steps": 10} | TWO, 1 + 2 * 10 * 4),
    ("smoothgrad", {}, 1 + 25 * 4),
    ("smoothgrad", {"samples": 3} | TWO, 1 + 2 * 3 * 4),
    ("occlusion", {}, 1 + 15 * 23),
    ("occlusion", {"window": 16, "stride": 16}, 1 + 2 * 3),
    ("rise", {}, 1 + 500),
    ("rise", {"samples": 7} | TWO, 1 + 7),
]


@pytest.mark.parametrize(("method", "given", "runs"), PRICES)
def test_a_method_costs_the_runs_that_it_makes(method: str, given: dict[str, Any], runs: float) -> None:
    row = METHODS[method]
    assert row.price is not None
    assert row.price(checked(row.options, given), CARD) == pytest.approx(runs)


def test_every_picture_method_has_a_price_that_is_counted_here() -> None:
    assert {method for method, _, _ in PRICES} == {name for name, row in METHODS.items() if row.kind == "image"}
