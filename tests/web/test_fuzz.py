"""What schemathesis makes of the OpenAPI document, right and wrong requests: no answer of 500, none undocumented."""

from __future__ import annotations

import pytest
from tests.fuzzing import Fuzzing, cases


@pytest.mark.beside
@pytest.mark.timeout(400)
def test_no_request_made_from_the_schema_is_answered_wrongly(fuzzed: Fuzzing) -> None:
    reports = fuzzed.reports()
    assert fuzzed.service.workers() == fuzzed.workers
    assert all(status == 0 for status, _ in reports), "\n".join(report[-6000:] for status, report in reports if status)
    assert sum(cases(report) for _, report in reports) > 6000
