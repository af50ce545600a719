"""What a graph computes of its inputs before the part that matters: scalers, imputers, encoders, left to the runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxplain.explainers.tables.permutation import Rows
from onnxplain.explainers.tables.table import Table
from onnxplain.model.graphs.graph import Graph
from onnxplain.model.runtime.sessions import Cancellation, Session

_TRIAL_ROWS = 2048
_SILENT = frozenset({"Identity", "Cast"})


@dataclass(frozen=True)
class Front:
    """The way from the inputs of a graph to one of its tensors.

    Attributes:
        head: computes the tensor; None where it is an input.
        source: its name.
    """

    head: Session | None
    source: str

    def seen(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """float32[n, columns]: the tensor for these inputs."""
        seen: NDArray[np.float32] = feeds[self.source] if self.head is None else self.head.run(feeds, [self.source])[0]
        return seen


def cut_before(graph: Graph, source: str, cancellation: Cancellation) -> Front:
    """The way to this tensor of float32."""
    if source in {value.name for value in graph.inputs} and graph.element_type(source) == TensorProto.FLOAT:
        return Front(None, source)
    value = helper.make_tensor_value_info(source, TensorProto.FLOAT, [None, None])
    return Front(Session(graph.extract(list(graph.inputs), [value], graph.weights), cancellation, 1), source)


def origin(graph: Graph, name: str) -> str:
    """The tensor behind copies of it."""
    while (node := graph.producer.get(name)) is not None and node.op_type in _SILENT:
        name = node.input[0]
    return name


def columns_read(
    front: Front, table: Table, feeds: Callable[[Table], dict[str, NDArray[Any]]], offsets: dict[str, int]
) -> dict[int, tuple[int, ...]] | None:
    """For each feature of the table the columns that it alone determines; None where columns mix features.

    Where something is computed before, each feature is permuted in some rows and the columns that change are taken for
    its own. Then all features are permuted at once, in all rows and each in its own order: every column must follow its
    feature, and those of no feature must stay as they are.
    """
    n_features = table.n_features
    if front.head is None:
        first = offsets[front.source]
        width = feeds(table)[front.source].shape[1]
        return {j: (j - first,) if first <= j < first + width else () for j in range(n_features)}
    random = np.random.default_rng(0)
    some = table.take(random.permutation(table.n_rows)[:_TRIAL_ROWS])
    base, order = front.seen(feeds(some)), random.permutation(some.n_rows)
    reads: dict[int, tuple[int, ...]] = {}
    for j in range(n_features):
        changed = front.seen(feeds(_with_orders(some, {j: order})))
        reads[j] = tuple(np.flatnonzero(~_equal_columns(changed, base)).tolist())
    if len({column for columns in reads.values() for column in columns}) < sum(map(len, reads.values())):
        return None
    orders = {j: random.permutation(table.n_rows) for j in range(n_features)}
    expected = front.seen(feeds(table)).copy()
    for j, columns in reads.items():
        expected[:, columns] = expected[orders[j]][:, columns]
    changed = front.seen(feeds(_with_orders(table, orders)))
    return reads if _equal_columns(changed, expected).all() else None


def _equal_columns(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Columns in which all values are equal, or missing in both."""
    equal: NDArray[np.bool_] = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)
    return equal


def _with_orders(table: Table, orders: dict[int, Rows]) -> Table:
    """The table with the values of some features in other orders of the rows."""
    changed = Table(tuple(block.copy() for block in table.blocks))
    for feature, order in orders.items():
        changed.column(feature)[:] = table.column(feature)[order]
    return changed
