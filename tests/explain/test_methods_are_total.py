"""A method without a function is never answered with the map of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onnxplain.explain.picture import explain_picture
from onnxplain.explain.picture_methods import MAPS
from onnxplain.explain.table_methods import TABLES
from onnxplain.facts.methods import METHODS
from onnxplain.facts.tasks import ExplainTask, ModelRef
from onnxplain.model import Cancellation, ImageModel, load

DIGITS = Path(__file__).parents[2] / "models" / "digits"


def test_every_row_has_its_function_and_every_function_its_row() -> None:
    for kind, functions in (("image", MAPS), ("tabular", TABLES)):
        assert set(functions) == {name for name, row in METHODS.items() if row.kind == kind}


@pytest.mark.parametrize("like", MAPS)
def test_a_row_without_a_function_is_no_answer(monkeypatch: pytest.MonkeyPatch, like: str) -> None:
    monkeypatch.setitem(METHODS, "toy", replace(METHODS[like], name="toy"))
    model = load(DIGITS, name="digits", cancellation=Cancellation())
    assert isinstance(model, ImageModel)
    picture = (DIGITS / "samples" / "5.png").read_bytes()
    with pytest.raises(KeyError, match="toy"):
        explain_picture(ExplainTask(ModelRef("digits", ""), "toy", "image/png", picture), model, lambda _: None)
