"""A method without a function is never answered with the map of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onnxplain.explain.picture import explain_picture
from onnxplain.facts.methods import METHODS
from onnxplain.facts.tasks import ExplainTask, ModelRef
from onnxplain.model import Cancellation, ImageModel, load

DIGITS = Path(__file__).parents[2] / "models" / "digits"


@pytest.mark.parametrize("like", [name for name in METHODS if METHODS[name].kind == "image"])
def test_a_row_without_a_function_is_no_answer(monkeypatch: pytest.MonkeyPatch, like: str) -> None:
    monkeypatch.setitem(METHODS, "toy", replace(METHODS[like], name="toy"))
    model = load(DIGITS, name="digits", cancellation=Cancellation())
    assert isinstance(model, ImageModel)
    picture = (DIGITS / "samples" / "5.png").read_bytes()
    with pytest.raises(AssertionError, match="toy has a row"):
        explain_picture(ExplainTask(ModelRef("digits", ""), "toy", "image/png", picture), model, lambda _: None)
