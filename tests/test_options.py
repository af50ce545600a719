"""What a caller may set means the same in a query string and in JSON."""

from __future__ import annotations

import pytest

from app.options import PermutationBody, PermutationOptions, checked


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("300", 300)])
def test_max_samples_is_a_number_of_rows_or_a_share_as_it_is_written(text, value):
    """`1.0` is every row, in a query string as in JSON; it was once read as one row in a query string."""
    from_query = PermutationOptions.model_validate({"max_samples": text}).max_samples
    from_json = checked(PermutationBody, {"max_samples": value}).max_samples
    assert from_query == from_json == value
    assert type(from_query) is type(from_json) is type(value)


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "inf", "many", ""])
def test_max_samples_that_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="max_samples"):
        PermutationOptions.model_validate({"max_samples": text})
