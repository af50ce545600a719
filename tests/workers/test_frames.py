"""What crosses between the processes comes out as it went in, and nothing but facts comes out."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from typing import Any

import numpy as np
import pytest

from onnxplain.facts.cards import GradientFact, ModelCard
from onnxplain.facts.errors import Busy, UnsupportedOperator
from onnxplain.facts.tasks import ExplainTask, ModelRef, PictureExplanation, Prediction, TaskLimits
from onnxplain.workers.frames import LENGTHS, Frame, frame_of, head_of, receive, send

REF = ModelRef("digits", "/models/digits", "ab" * 32)
VALUES: list[Any] = [
    None,
    {"rows": [1, 2.5, "three", None, True], "nested": {"a": (1, 2)}},
    ExplainTask(REF, "gradcam", "image/png", options={"target": ["3"]}, limits=TaskLimits(max_pixels=1_000_000)),
    ModelCard("digits", "1", "ab", "image", "classification", "", (), (), "scores", gradient=GradientFact("exact")),
    PictureExplanation((Prediction(1, "one", 2.0, 0.5),), (), GradientFact(), {"run": 1.5}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_equal(value: Any) -> None:
    frame = Frame("done", 7, value, b"body")
    assert frame_of(head_of(frame)[LENGTHS.size :], b"body") == frame


def test_an_error_comes_back_with_what_it_carries() -> None:
    for error in (Busy("Wait.", 9), UnsupportedOperator("None.", "Loop", "node")):
        copy = frame_of(head_of(Frame("error", 1, error))[LENGTHS.size :], b"").value
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


class Evil:
    """What a worker whose memory was taken over might send."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


FOREIGN = [Evil(os.system, "true"), Evil(eval, "1"), Evil(getattr, REF, "name"), np.float64(1), np.zeros(3)]
foreign = pytest.mark.parametrize("value", FOREIGN, ids=["os.system", "eval", "getattr", "NumPy scalar", "array"])


@foreign
def test_code_and_foreign_objects_are_not_taken(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError):
        frame_of(pickle.dumps(("done", 1, value), protocol=5), b"")


@foreign
def test_code_and_foreign_objects_are_not_sent(value: Any) -> None:
    """A mistake is one error where it was made, not a worker lost to whoever would not take it."""
    with pytest.raises(pickle.PicklingError):
        head_of(Frame("done", 1, {"rows": [1.5, value]}))


def test_one_of_our_classes_is_a_fact_about_itself() -> None:
    assert frame_of(head_of(Frame("done", 1, ModelRef))[LENGTHS.size :], b"").value is ModelRef


def test_a_dotted_name_does_not_lead_out_of_our_modules() -> None:
    head = pickle.dumps(("done", 1, None))
    crafted = b"\x80\x04\x8c\x0fapp.engine.task\x8c\x1aModelRef.__init__.__globals__\x93."
    assert frame_of(head, b"").kind == "done"
    with pytest.raises(pickle.UnpicklingError):
        frame_of(crafted, b"")


def test_a_large_body_crosses_a_socket_whole() -> None:
    body = os.urandom(20_000_000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, Frame("run", 1, None, body)))
        sender.start()
        assert receive(theirs).body == body
        sender.join()
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs)
