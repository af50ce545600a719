"""JSON as RFC 8259 and nothing more."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxplain.facts.errors import MalformedInput
from onnxplain.tables.strict_json import loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_whatever_json_can_say_comes_back_equal(document, ascii_only):
    assert loads(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1,]",
        b"{'a': 1}",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e400]",
        b"[-1e400]",
        b'{"a": 1, "a": 2}',
        b'{"b": {"a": 1, "a": 2}}',
        b'["\\ud800"]',
        b'{"\\udc00": 1}',
        b"\xef\xbb\xbf[1]",
        "[1]".encode("utf-16"),
        "[1]".encode("utf-32"),
        b'["\xff"]',
        b"[" * 100_000,
        b"[" + b"9" * 5000 + b"]",
        b"[1] trailing",
        b"01",
        b"[1.]",
        b'["tab\t"]',
    ],
)
def test_what_lenient_parsers_accept_is_refused_with_a_sentence(body):
    with pytest.raises(MalformedInput) as refusal:
        loads(body)
    assert str(refusal.value).endswith(".")


def test_a_surrogate_pair_is_one_character():
    assert loads(b'["\\ud83d\\ude00"]') == ["\U0001f600"]
