"""Read a tree ensemble out of an ONNX graph: TreeEnsembleClassifier and TreeEnsembleRegressor of float32, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnxplain.explainers.evaluators.tree_ensemble import Post, Tree, TreeEnsemble

OPERATORS = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_LEAF, _LEQ, _LT, _GT, _GTE, _EQ, _NEQ = range(7)
_MODES = {
    b"LEAF": _LEAF,
    b"BRANCH_LEQ": _LEQ,
    b"BRANCH_LT": _LT,
    b"BRANCH_GT": _GT,
    b"BRANCH_GTE": _GTE,
    b"BRANCH_EQ": _EQ,
    b"BRANCH_NEQ": _NEQ,
}


def read_ensemble(node: NodeProto, n_features: int, check: Callable[[], None] = lambda: None) -> TreeEnsemble | None:
    """The ensemble of a node; None where it uses what is not supported: doubles, MIN or MAX.

    Args:
        node: the operator.
        n_features: columns of its input.
        check: called again and again; raises to stop.

    Raises:
        KeyError, ValueError, IndexError: the lists of the node do not make trees.
    """
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        check()
        attributes[attribute.name] = helper.get_attribute_value(attribute)
    classifier = node.op_type == "TreeEnsembleClassifier"
    prefix = "class" if classifier else "target"
    post = attributes.get("post_transform", b"NONE").decode()
    aggregate = attributes.get("aggregate_function", b"SUM")
    plain = aggregate in {b"SUM", b"AVERAGE"} and post in get_args(Post)
    if not plain or any(name.endswith("_as_tensor") for name in attributes):
        return None
    labels = attributes.get("classlabels_int64s") or attributes.get("classlabels_strings") or []
    planes, plane = np.unique(np.array(attributes[f"{prefix}_ids"], dtype=np.intp), return_inverse=True)
    n_classes = len(labels)
    n_planes = len(planes)
    if classifier:
        fits = n_planes == n_classes or (n_planes == 1 and n_classes == 2)
    else:
        fits = n_planes == attributes.get("n_targets", 1) and post == "NONE"
    if not fits:
        return None
    base = attributes.get("base_values")
    if base is not None and len(base) != n_planes:
        if not (n_planes == 1 and n_classes == 2):
            return None
        base = [base[1]] if len(base) == 2 else base
    weights = np.array(attributes[f"{prefix}_weights"], dtype=np.float32)
    lists = _Lists(attributes, check)
    tested = _tested(lists, n_features)
    trees = _trees(attributes, lists, tested, plane, weights, prefix, check)
    return TreeEnsemble(
        trees,
        n_planes,
        None if base is None or not len(base) else np.array(base, dtype=np.float32),
        aggregate == b"AVERAGE",
        n_classes,
        "NONE" if not classifier else post,
        bool((weights >= 0).all()),
        tested.origin,
        tested.sets,
    )


class _Lists:
    """The nodes of all trees, as the attributes list them.

    Attributes:
        tree: which tree; trees are numbered as they first appear, since the runtime adds them in this order.
        is_leaf: bool.
        equal: whether only a value equal to the threshold goes left; else one that is not greater does.
        missing_left: whether a missing value goes left.
        feature: the column of the input that a node tests.
        threshold: float32.
        left, right: children; a leaf is its own.
    """

    def __init__(self, attributes: dict[str, Any], check: Callable[[], None]) -> None:
        def listed(name: str, dtype: type[np.generic] = np.intp) -> NDArray[Any]:
            check()
            return np.array(attributes[name], dtype=dtype)

        mode = np.fromiter(map(_MODES.__getitem__, attributes["nodes_modes"]), dtype=np.uint8)
        self._names, first, tree = np.unique(listed("nodes_treeids"), return_index=True, return_inverse=True)
        self._numbers = np.argsort(np.argsort(first))
        self.tree = self._numbers[tree]
        node = listed("nodes_nodeids")
        self._stride = int(node.max()) + 1
        self._keys = self.tree * self._stride + node
        self._by_key = np.argsort(self._keys, kind="stable")  # mostly they are in order already

        self.is_leaf = mode == _LEAF
        self.equal = (mode == _EQ) | (mode == _NEQ)
        swapped = (mode == _GT) | (mode == _GTE) | (mode == _NEQ)
        exclusive = (mode == _LT) | (mode == _GTE)
        self.threshold = listed("nodes_values", np.float32)
        self.threshold[exclusive] = np.nextafter(self.threshold[exclusive], np.float32(-np.inf))
        missing_true = np.zeros(len(mode), np.bool_)
        if attributes.get("nodes_missing_value_tracks_true"):
            missing_true = listed("nodes_missing_value_tracks_true", np.bool_)
        self.missing_left = (missing_true ^ swapped) & (mode != _NEQ)  # what is missing differs from everything
        self.feature = np.where(self.is_leaf, 0, listed("nodes_featureids"))
        true = self._place(self.tree, listed("nodes_truenodeids"))
        false = self._place(self.tree, listed("nodes_falsenodeids"))
        itself = np.arange(len(mode))
        self.left = np.where(self.is_leaf, itself, np.where(swapped, false, true))
        self.right = np.where(self.is_leaf, itself, np.where(swapped, true, false))
        check()

    def places(self, trees: NDArray[np.intp], nodes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where the nodes of these trees with these ids are listed, both as the attributes name them."""
        return self._place(self._numbers[np.searchsorted(self._names, trees)], nodes)

    def _place(self, tree: NDArray[np.intp], node: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which node of the lists has this tree and id; ids that are out of range are those of leaves, which have no children."""
        found = np.searchsorted(self._keys, tree * self._stride + node, sorter=self._by_key)
        return self._by_key[np.minimum(found, len(self._by_key) - 1)]


@dataclass(frozen=True)
class _Tested:
    """What the nodes test.

    Attributes:
        column: for each node the tested column, see `TreeEnsemble`.
        right: right children, with chains of equality tests become one.
        kept: whether a node is not such a link of a chain.
        origin, sets: of the tested columns, see `TreeEnsemble`.
    """

    column: NDArray[np.intp]
    right: NDArray[np.intp]
    kept: NDArray[np.bool_]
    origin: NDArray[np.intp]
    sets: dict[int, NDArray[np.float32]]


def _tested(lists: _Lists, n_features: int) -> _Tested:
    ordered = ~lists.is_leaf & ~lists.equal
    ways = np.zeros((2, n_features), dtype=np.bool_)
    ways[lists.missing_left[ordered].astype(np.intp), lists.feature[ordered]] = True
    # When missing values of a column go left at some nodes and right at others, the column gets a second number. The nodes where
    # they go left test the column under that number.
    both = np.flatnonzero(ways.all(axis=0))
    second = np.arange(n_features)
    second[both] = n_features + np.arange(len(both))
    column = np.where(ordered & lists.missing_left, second[lists.feature], lists.feature)
    # A test "is the value one of this set?" becomes a column of its own, one for each set. Exporters write such a test as a chain of
    # equality nodes that share their left child.
    kept, right = np.ones(len(column), dtype=np.bool_), lists.right.copy()
    same = (
        lists.equal & lists.equal[right] & (lists.feature == lists.feature[right]) & (lists.left == lists.left[right])
    )
    kept[right[same]] = False
    if np.count_nonzero(kept) + np.count_nonzero(same) != len(kept):
        raise ValueError("a chain with two beginnings; it might never end")
    numbers: dict[tuple[int, bool, frozenset[float]], int] = {}
    for head in np.flatnonzero(lists.equal & kept).tolist():
        link, values, missing = head, {float(lists.threshold[head])}, bool(lists.missing_left[head])
        while same[link]:
            link = int(lists.right[link])
            values.add(float(lists.threshold[link]))
            missing |= bool(lists.missing_left[link])
        right[head] = lists.right[link]
        key = (int(lists.feature[head]), missing, frozenset(values))
        column[head] = numbers.setdefault(key, n_features + len(both) + len(numbers))
    origin = np.array([*range(n_features), *both, *(feature for feature, _, _ in numbers)], dtype=np.intp)
    sets = {
        number: np.array(sorted(values) + [np.nan] * missing, dtype=np.float32)
        for (_, missing, values), number in numbers.items()
    }
    return _Tested(column, right, kept, origin, sets)


def _trees(
    attributes: dict[str, Any],
    lists: _Lists,
    tested: _Tested,
    plane: NDArray[np.intp],
    weights: NDArray[np.float32],
    prefix: str,
    check: Callable[[], None],
) -> tuple[Tree, ...]:
    def integers(name: str) -> NDArray[np.intp]:
        return np.array(attributes[name], dtype=np.intp)

    # The root comes first.
    order = np.argsort(2 * lists.tree + ~_roots(lists, tested), kind="stable")
    order = order[tested.kept[order]]
    check()
    leaf = lists.places(integers(f"{prefix}_treeids"), integers(f"{prefix}_nodeids"))
    leaf_tree = lists.tree[leaf]
    ends = np.searchsorted(lists.tree[order], np.arange(int(lists.tree.max()) + 2))
    by_tree = np.argsort(leaf_tree, kind="stable")
    leaf_ends = np.searchsorted(leaf_tree[by_tree], np.arange(len(ends)))
    local = np.empty(len(lists.tree), dtype=np.intp)
    trees = []
    for t in range(len(ends) - 1):
        check()
        nodes = order[ends[t] : ends[t + 1]]
        local[nodes] = np.arange(len(nodes))
        voted = by_tree[leaf_ends[t] : leaf_ends[t + 1]]
        by_plane = {}
        for p in np.unique(plane[voted]).tolist():
            these = voted[plane[voted] == p]
            by_plane[p] = np.zeros(len(nodes), dtype=np.float32)
            by_plane[p][local[leaf[these]]] = weights[these]
        trees.append(
            Tree(
                tested.column[nodes],
                np.where(lists.equal[nodes], np.float32(0), lists.threshold[nodes]),
                local[lists.left[nodes]],
                local[tested.right[nodes]],
                lists.is_leaf[nodes],
                lists.missing_left[nodes],
                by_plane,
            )
        )
    return tuple(trees)


def _roots(lists: _Lists, tested: _Tested) -> NDArray[np.bool_]:
    """Which nodes are roots.

    Raises:
        ValueError: what hangs on them is not one tree each, so that a walk might never end.
    """
    inner = np.flatnonzero(tested.kept & ~lists.is_leaf)
    parents = np.bincount(np.concatenate((lists.left[inner], tested.right[inner])), minlength=len(lists.tree))
    roots: NDArray[np.bool_] = tested.kept & (parents == 0)
    sound = bool((parents <= tested.kept).all() and (np.bincount(lists.tree[roots]) == 1).all())
    level, reached = np.flatnonzero(roots), 0
    while sound and len(level):
        reached += len(level)
        above = level[~lists.is_leaf[level]]
        level = np.concatenate((lists.left[above], tested.right[above]))
        sound = np.array_equal(lists.tree[level], np.tile(lists.tree[above], 2))
    if not sound or reached != np.count_nonzero(tested.kept):
        raise ValueError("these nodes do not form trees")
    return roots
