"""Read a tree ensemble out of an ONNX graph: TreeEnsembleClassifier and TreeEnsembleRegressor of float32, as exporters write them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from app.explainers.tree_ensemble import Post, Tree, TreeEnsemble

OPERATORS = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_LEFT_WHEN_TRUE = {b"BRANCH_LEQ": True, b"BRANCH_LT": True, b"BRANCH_GT": False, b"BRANCH_GTE": False}


def read_ensemble(node: NodeProto, n_features: int) -> TreeEnsemble | None:
    """The ensemble of a node; None where it uses what is not supported: equality tests, doubles, MIN or MAX.

    Raises:
        KeyError, ValueError, IndexError: the lists of the node do not make trees.
    """
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    classifier = node.op_type == "TreeEnsembleClassifier"
    prefix = "class" if classifier else "target"
    modes = attributes["nodes_modes"]
    post = attributes.get("post_transform", b"NONE").decode()
    aggregate = attributes.get("aggregate_function", b"SUM")
    plain = set(modes) <= {*_LEFT_WHEN_TRUE, b"LEAF"} and aggregate in {b"SUM", b"AVERAGE"} and post in get_args(Post)
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
    trees, origin = _split_missing(_trees(attributes, modes, plane, weights, prefix), n_features)
    return TreeEnsemble(
        trees,
        n_planes,
        None if base is None or not len(base) else np.array(base, dtype=np.float32),
        aggregate == b"AVERAGE",
        n_classes,
        "NONE" if not classifier else post,
        bool((weights >= 0).all()),
        origin,
    )


def _split_missing(trees: tuple[Tree, ...], n_features: int) -> tuple[tuple[Tree, ...], NDArray[np.intp]]:
    """Give columns whose missing values go both ways a second number, for the nodes where they go left."""
    ways = np.zeros((2, n_features), dtype=np.bool_)
    for tree in trees:
        inner = ~tree.is_leaf
        ways[tree.missing_left[inner].astype(np.intp), tree.feature[inner]] = True
    both = np.flatnonzero(ways.all(axis=0))
    second = np.arange(n_features)
    second[both] = n_features + np.arange(len(both))
    split = tuple(
        replace(t, feature=np.where(t.missing_left & ~t.is_leaf, second[t.feature], t.feature)) for t in trees
    )
    return split, np.concatenate((np.arange(n_features), both))


def _trees(
    attributes: dict[str, Any],
    modes: list[bytes],
    plane: NDArray[np.intp],
    weights: NDArray[np.float32],
    prefix: str,
) -> tuple[Tree, ...]:
    def integers(name: str) -> NDArray[np.intp]:
        return np.array(attributes[name], dtype=np.intp)

    tree_id, node_id = integers("nodes_treeids"), integers("nodes_nodeids")
    # Trees in the order in which they first appear: the runtime adds them in this order.
    _, first, tree_id = np.unique(tree_id, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))
    tree_id = place[tree_id]
    leaf_tree = place[np.searchsorted(np.unique(integers("nodes_treeids")), integers(f"{prefix}_treeids"))]
    order = np.lexsort((np.arange(len(tree_id)), tree_id))
    stride = int(node_id.max()) + 1
    key = tree_id * stride + node_id
    by_key = np.argsort(key)

    def position(tree: NDArray[np.intp], node: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which node of the lists has this tree and id; ids that are out of range are those of leaves, which have no children."""
        found = np.searchsorted(key, tree * stride + node, sorter=by_key)
        return by_key[np.minimum(found, len(by_key) - 1)]

    mode = np.array(modes, dtype=object)
    is_leaf = mode == b"LEAF"
    swapped = (mode == b"BRANCH_GT") | (mode == b"BRANCH_GTE")
    threshold = np.array(attributes["nodes_values"], dtype=np.float32)
    exclusive = (mode == b"BRANCH_LT") | (mode == b"BRANCH_GTE")
    threshold[exclusive] = np.nextafter(threshold[exclusive], np.float32(-np.inf))
    tracks = attributes.get("nodes_missing_value_tracks_true")
    missing_true = np.zeros(len(mode), np.bool_) if not tracks else np.array(tracks, dtype=np.bool_)
    true, false = position(tree_id, integers("nodes_truenodeids")), position(tree_id, integers("nodes_falsenodeids"))
    left, right = np.where(swapped, false, true), np.where(swapped, true, false)
    itself = np.arange(len(mode))
    left, right = np.where(is_leaf, itself, left), np.where(is_leaf, itself, right)
    feature = np.where(is_leaf, 0, integers("nodes_featureids"))
    leaf = position(leaf_tree, integers(f"{prefix}_nodeids"))

    ends = np.searchsorted(tree_id[order], np.arange(int(tree_id.max()) + 2))
    by_tree = np.argsort(leaf_tree, kind="stable")
    leaf_ends = np.searchsorted(leaf_tree[by_tree], np.arange(len(ends)))
    local = np.empty(len(mode), dtype=np.intp)
    trees = []
    for t in range(len(ends) - 1):
        nodes = order[ends[t] : ends[t + 1]]
        children = np.concatenate((left[nodes][~is_leaf[nodes]], right[nodes][~is_leaf[nodes]]))
        if len(np.unique(children)) != len(children):
            raise ValueError("a node has two parents")  # no tree; a walk might never end
        (root,) = np.setdiff1d(nodes, children)
        nodes = np.concatenate(([root], nodes[nodes != root]))
        local[nodes] = np.arange(len(nodes))
        voted = by_tree[leaf_ends[t] : leaf_ends[t + 1]]
        by_plane = {}
        for p in np.unique(plane[voted]).tolist():
            these = voted[plane[voted] == p]
            by_plane[p] = np.zeros(len(nodes), dtype=np.float32)
            by_plane[p][local[leaf[these]]] = weights[these]
        trees.append(
            Tree(
                feature[nodes],
                threshold[nodes],
                local[left[nodes]],
                local[right[nodes]],
                is_leaf[nodes],
                missing_true[nodes] ^ swapped[nodes],
                by_plane,
            )
        )
    return tuple(trees)
