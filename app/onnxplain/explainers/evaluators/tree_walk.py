"""Rows on their way through trees, several permutations of a column at once.

A permuted column moves a row to another leaf only if the row's path tests it: the row then leaves its path at the first
node that decides differently. The permutations of a row are decided together, up to eight in one machine word, a byte
(a lane) each. Where no node below tests the column again, they end in the leaf that the row's own values lead to from
there; in small trees that is found for all nodes at once, from the leaves up. Otherwise they are followed down.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.evaluators.tree_ensemble import Codes
from onnxplain.explainers.evaluators.tree_layout import Changes, Earlier, Layout
from onnxplain.explainers.tables.permutation import Rows

LANES = 8
_EACH = np.uint64(0x0101010101010101)  # 1 in every lane

Lanes = NDArray[np.uint64]  # bytes of 0 or 1


class _Nodes:
    """A tree's nodes as one chunk of rows sees them, arrays over nodes.

    Attributes:
        layout: the tree.
        children: left and right child of node v at 2v and 2v + 1.
        sibling: the other child of the node above.
        is_right: 1 in every lane of a right child, else 0.
        word: the rank, once for each lane.
        job: the job that changes what the node tests; -1 for none.
        own_at: where the rows' own codes of the tested column begin.
        changed_at: where the permuted ones begin.
    """

    def __init__(self, layout: Layout, changes: Changes, cells: int) -> None:
        tree, parent = layout.tree, layout.parent
        right = tree.right[parent] == np.arange(len(parent))
        self.layout = layout
        self.children = np.stack((tree.left, tree.right), axis=1).ravel()
        self.sibling = np.where(right, tree.left[parent], tree.right[parent])
        self.is_right = right * _EACH
        self.word = np.repeat(layout.rank, LANES).view(_word(layout.rank.dtype))
        self.job = changes.at(layout)
        self.own_at = tree.feature * cells
        self.changed_at = changes.slot.take(tree.feature) * cells


class _Moved(NamedTuple):
    """Permuted rows that have left their rows' paths.

    Attributes:
        node: where they are.
        cell: which row, of which block of repeats.
        job: whose repeats.
        lanes: which of the block's repeats.
    """

    node: Rows
    cell: Rows
    job: Rows
    lanes: Lanes

    def take(self, index: Rows) -> _Moved:
        return _Moved(self.node.take(index), self.cell.take(index), self.job.take(index), self.lanes.take(index))


class _Arrived(NamedTuple):
    """Permuted rows in leaves.

    Attributes:
        place: where the sum of their first lane is.
        leaf: the leaf.
        lanes: which lanes.
    """

    place: Rows
    leaf: Rows
    lanes: Lanes


class Walk:
    """A chunk of m rows on its way through one tree after the other.

    With b blocks of repeats, repeat r of row i is lane r // b of cell (r % b) * m + i.

    Args:
        codes: [column, m], of the rows as they are.
        changed: [slot, r, m], of the columns that jobs change, after each permutation.
        changes: which these are.
        planes: how many sums each prediction has.

    Attributes:
        sums: float32[plane, job, r, m].
    """

    def __init__(self, codes: Codes, changed: Codes, changes: Changes, planes: int) -> None:
        _, repeats, m = changed.shape
        self._m, self._blocks = m, -(-repeats // LANES)
        self._cells = self._blocks * m
        self._changes = changes
        self._by_column = np.ascontiguousarray(codes)
        self._codes = np.tile(codes, self._blocks).ravel()
        self._words = self._packed(codes, changed).view(_word(codes.dtype))
        self.sums = np.zeros((planes, changes.count, repeats, m), dtype=np.float32)

    def _packed(self, codes: Codes, changed: Codes) -> Codes:
        """[slot, block, row, lane]; a lane without a repeat has the row's own code, and so never leaves the path."""
        slots, repeats, m = changed.shape
        lanes = np.empty((slots, LANES * self._blocks, m), dtype=changed.dtype)
        lanes[:, :repeats] = changed
        lanes[:, repeats:] = codes[self._changes.columns, None]
        return np.moveaxis(lanes.reshape(slots, LANES, self._blocks, m), 1, -1).ravel()

    def add(self, layout: Layout, earlier: Earlier) -> None:
        """Add a tree's leaves to all sums."""
        nodes = _Nodes(layout, self._changes, self._cells)
        if nodes.job.max() < 0:
            self._sum(layout, self._leaf(nodes), [])
        elif layout.small:
            reached = self._reached(layout)
            leaf = layout.leaves.take(reached[0])
            self._sum(layout, leaf, self._moved(nodes, earlier, leaf, ~self._changes.tests(layout), reached))
        else:
            leaf = self._leaf(nodes)
            ends = np.repeat(layout.tree.is_leaf, self._changes.count)
            self._sum(layout, leaf, self._moved(nodes, earlier, leaf, ends, None))

    def _reached(self, layout: Layout) -> Codes:
        """[node, m]: the number of the leaf that a row's own values lead to from a node."""
        tree, inner = layout.tree, layout.inner
        numbers: Codes = np.arange(len(layout.leaves), dtype=np.uint8 if len(layout.leaves) <= 256 else np.uint16)
        reached: Codes = np.empty((len(layout.rank), self._m), dtype=numbers.dtype)
        reached[layout.leaves] = numbers[:, None]
        goes_right = self._by_column.take(tree.feature[inner], axis=0) > layout.rank[inner][:, None]
        mask = np.negative(goes_right.astype(numbers.dtype))
        for start, stop in pairwise(layout.ends):
            here = inner[start:stop]
            # Chosen by bits: where() goes number by number, which takes forty times as long.
            left, right = reached.take(tree.left[here], axis=0), reached.take(tree.right[here], axis=0)
            reached[here] = left ^ ((left ^ right) & mask[start:stop])
        return reached

    def _leaf(self, nodes: _Nodes) -> Rows:
        """The leaf that each row reaches."""
        rows, node = np.arange(self._m), np.zeros(self._m, dtype=np.intp)
        for _ in range(nodes.layout.depth):
            right = self._codes.take(nodes.own_at.take(node) + rows) > nodes.layout.rank.take(node)
            node = nodes.children.take(2 * node + right)
        return node

    def _moved(
        self, nodes: _Nodes, earlier: Earlier, leaf: Rows, ends: NDArray[np.bool_], reached: Codes | None
    ) -> list[_Arrived]:
        """What does not reach its row's leaf.

        Args:
            nodes: the tree.
            earlier: its nodes above of the same job.
            leaf: the leaf that each row reaches.
            ends: bool[node * jobs + job], where what a job changes need not be followed any more.
            reached: how to find its leaf then; None where only leaves are ends.
        """
        child, cell = self._paths(nodes, leaf)
        turned = self._turned(nodes, earlier, child, cell)
        # `job` and `ended` are indexed as `sibling` is: by the child on the row's own path, below the node where the row turns off.
        job = nodes.job.take(nodes.layout.parent)
        ended = ends.take(nodes.sibling * self._changes.count + job)
        on = _where(~ended.take(child))
        off = child.take(on)
        moved = _Moved(nodes.sibling.take(off), cell.take(on), job.take(off), turned.take(on))
        turned &= (ended * ~np.uint64(0)).take(child)
        arrived = self._arrived(nodes, _Moved(nodes.sibling.take(child), cell, job.take(child), turned), reached)
        return [arrived, *self._follow(nodes, moved, ends, reached)]

    def _paths(self, nodes: _Nodes, leaf: Rows) -> tuple[Rows, Rows]:
        """Of the rows' paths to these leaves, the nodes below one that a job changes; and the cells that they are about."""
        below = nodes.job.take(nodes.layout.parent) >= 0
        below[0] = False
        path = [leaf[:0]]
        for _ in range(nodes.layout.depth):
            path.append(leaf)
            leaf = nodes.layout.parent.take(leaf)
        child = np.concatenate(path)
        kept = _where(below.take(child))
        child = child.take(kept)
        cell = np.tile(np.arange(self._m), nodes.layout.depth).take(kept)
        if self._blocks > 1:
            cell = (np.arange(self._blocks)[:, None] * self._m + cell).ravel()
            child = np.tile(child, self._blocks)
        return child, cell

    def _turned(self, nodes: _Nodes, earlier: Earlier, child: Rows, cell: Rows) -> Lanes:
        """Which lanes leave a row's path just above these nodes of it, and not further up because of the same job."""
        parent = nodes.layout.parent
        turned: Lanes = self._decide(nodes, parent.take(child), cell) ^ nodes.is_right.take(child)
        left_right = earlier.right * _EACH
        pending = _where((earlier.node.take(parent) >= 0).take(child))
        node = parent.take(child.take(pending))
        while len(pending):
            before = self._decide(nodes, earlier.node.take(node), cell.take(pending)) ^ left_right.take(node)
            turned[pending] &= ~before
            node = earlier.node.take(node)
            on = _where(earlier.node.take(node) >= 0)
            pending, node = pending.take(on), node.take(on)
        return turned

    def _decide(self, nodes: _Nodes, node: Rows, cell: Rows) -> Lanes:
        """Which way permuted values go at nodes that a job changes: 1 for right."""
        place = nodes.changed_at.take(node)
        place += cell
        words, ranks = self._words.take(place), nodes.word.take(node)
        right: Lanes = (words.view(self._codes.dtype) > ranks.view(self._codes.dtype)).view(np.uint64)
        return right

    def _follow(self, nodes: _Nodes, moved: _Moved, ends: NDArray[np.bool_], reached: Codes | None) -> list[_Arrived]:
        """Go on until nothing is left to decide; arguments as those of `_moved`."""
        arrived = []
        while len(moved.node):
            ended = ends.take(moved.node * self._changes.count + moved.job)
            arrived.append(self._arrived(nodes, moved.take(_where(ended)), reached))
            moved = self._step(nodes, moved.take(_where(~ended)))
        return arrived

    def _step(self, nodes: _Nodes, moved: _Moved) -> _Moved:
        """One node down; at nodes of their own job the lanes of a row may part."""
        node, cell, job, lanes = moved
        right = self._codes.take(nodes.own_at.take(node) + cell) > nodes.layout.rank.take(node)
        own = _where(nodes.job.take(node) == job)
        decided = self._decide(nodes, node.take(own), cell.take(own))
        turned = np.zeros(len(node), dtype=np.uint64)
        turned[own] = (decided ^ (right.take(own) * _EACH)) & lanes.take(own)
        straight = lanes ^ turned
        on, off = _where(straight), _where(turned)
        child = 2 * node + right
        return _Moved(
            nodes.children.take(np.concatenate((child.take(on), child.take(off) ^ 1))),
            np.concatenate((cell.take(on), cell.take(off))),
            np.concatenate((job.take(on), job.take(off))),
            np.concatenate((straight.take(on), turned.take(off))),
        )

    def _arrived(self, nodes: _Nodes, moved: _Moved, reached: Codes | None) -> _Arrived:
        """Where these add what, their nodes being ends."""
        leaf = moved.node
        if reached is not None:
            row = moved.cell if self._blocks == 1 else moved.cell - moved.cell // self._m * self._m
            leaf = nodes.layout.leaves.take(reached.ravel().take(leaf * self._m + row))
        return _Arrived(moved.job * self.sums[0, 0].size + moved.cell, leaf, moved.lanes)

    def _sum(self, layout: Layout, leaf: Rows, arrived: list[_Arrived]) -> None:
        """Add each row's leaf to its sums, but where another was reached, that one."""
        none = np.empty(0, dtype=np.intp)
        place = np.concatenate([none, *(part.place for part in arrived)])
        other = np.concatenate([none, *(part.leaf for part in arrived)])
        lanes = np.concatenate([none.view(np.uint64), *(part.lanes for part in arrived)])
        lane = _where(lanes.view(np.bool_))
        which = lane >> 3
        place = place.take(which)
        place += (lane & 7) * self._cells
        for plane, weight in layout.tree.weights.items():
            sums = self.sums[plane]
            flat = sums.reshape(-1)
            moved = flat.take(place)
            moved += weight.take(other).take(which)
            sums += weight.take(leaf)
            flat[place] = moved


def _word(dtype: np.dtype[Any]) -> type[np.generic]:
    """A type as long as the codes of all lanes; it is only moved about."""
    return np.uint64 if dtype.itemsize == 1 else np.complex128


def _where(condition: NDArray[Any]) -> Rows:
    """`np.flatnonzero`, which takes longer for short arrays."""
    return condition.nonzero()[0]
