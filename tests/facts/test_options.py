"""What a caller may set is read in one way, whether it stands in a query string, a form, a shell or JSON."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxplain.facts.errors import BadParameter
from onnxplain.facts.methods import METHODS
from onnxplain.facts.options import (
    PermutationBody,
    PermutationOptions,
    PictureOptions,
    RiseOptions,
    checked,
    from_texts,
    schemas,
)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("300", 300)])
def test_max_samples_is_a_number_of_rows_or_a_share_as_it_is_written(text, value):
    """`1.0` is every row, in a query string as in JSON; it was once read as one row in a query string."""
    from_query = from_texts(PermutationOptions, {"max_samples": [text]})["max_samples"]
    from_json = checked(PermutationBody, {"max_samples": value}).max_samples
    assert from_query == from_json == value
    assert type(from_query) is type(from_json) is type(value)


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "inf", "many", "", " 1", "1_000", "\u0663", "1" * 30])
def test_max_samples_that_is_neither_is_refused(text):
    with pytest.raises(BadParameter, match=r"^max_samples must be a whole number of at least 1, or a number above 0"):
        from_texts(PermutationOptions, {"max_samples": [text]})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("target", "7", ["7"]),
        ("values", "true", True),
        ("values", "True", True),
        ("values", "0", False),
        ("alpha", "1", 1),
        ("alpha", "2.5e-1", 0.25),
        ("colormap", "jet", "jet"),
        ("seed", "3", 3),
    ],
)
def test_a_text_means_what_its_option_is(name, text, value):
    read = from_texts(RiseOptions, {name: [text]})[name]
    assert read == value
    assert type(read) is type(value)


def test_a_repeated_name_is_a_list_where_a_list_is_wanted_and_else_the_last():
    given = from_texts(PictureOptions, {"target": ["cat", "dog"], "alpha": ["0.1", "0.9"]})
    assert given == {"target": ["cat", "dog"], "alpha": 0.9}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"alpha": "0.5"}, "alpha must be a number from 0 to 1."),
        ({"alpha": True}, "alpha must be a number from 0 to 1."),
        ({"values": 1}, "values must be true or false."),
        ({"samples": 3.0}, "samples must be a whole number from 1 to 20,000."),
        ({"samples": 20_001}, "samples must be a whole number from 1 to 20,000."),
        ({"kept": 1.0}, "kept must be a number above 0 and below 1."),
        ({"kept": float("nan")}, "kept must be a number above 0 and below 1."),
        ({"target": "cat"}, "target must be a list of at most 100 texts."),
        ({"target": [7]}, "target must be a list of at most 100 texts."),
        ({"target": ["a"] * 101}, "target must be a list of at most 100 texts."),
        ({"output": "both"}, "output must be `overlay` or `heatmap`."),
        ({"sample": 3}, "sample is not a parameter of this method."),
    ],
)
def test_json_has_types_and_what_does_not_fit_is_refused_with_what_would(given, sentence):
    with pytest.raises(BadParameter) as refused:
        checked(RiseOptions, given)
    assert str(refused.value).startswith(sentence)


def test_nested_keys_of_a_body_are_read_to_the_last_value():
    read = checked(PermutationBody, {"sample_weight": [1, 0.5], "groups": {"size": ["a", "b"]}, "n_repeats": "exact"})
    assert (read.sample_weight, read.groups, read.n_repeats) == ((1.0, 0.5), {"size": ("a", "b")}, "exact")
    for wrong in ({"sample_weight": [-1]}, {"groups": {"size": []}}, {"groups": {"size": [1]}}, {"n_repeats": "all"}):
        with pytest.raises(BadParameter):
            checked(PermutationBody, wrong)


@pytest.mark.parametrize("name", METHODS)
def test_every_default_is_what_its_own_schema_allows(name):
    """Given back as JSON, the defaults are taken and change nothing."""
    options = METHODS[name].options
    defaults = {key: schema["default"] for key, schema in schemas(options).items() if "default" in schema}
    assert checked(options, defaults) == options()


def test_a_worker_does_without_pydantic():
    """It costs every worker 9 MB, and the web process alone needs it."""
    code = "import sys, onnxplain.workers.worker; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
