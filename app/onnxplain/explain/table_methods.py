"""The function of every table method: from a task about a table to its typed answer.

Its counterpart with equal keys is the table of facts, `onnxplain.facts.methods.METHODS`: a method is a row there and a function here.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxplain.explain.table import explain_table
from onnxplain.facts.tasks import ExplainTask, TableExplanation
from onnxplain.model.tables.table_model import TabularModel

TABLES: dict[str, Callable[[ExplainTask, TabularModel, Callable[[float], None]], TableExplanation]] = {
    "permutation-importance": explain_table,
}
