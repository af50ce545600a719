"""Convolutions. Their weights are never differentiated: an explanation asks about data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.gates import BLOCK, enter_blocks
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp


@dataclass(frozen=True)
class Window:
    """How a kernel slides over the spatial axes, with `auto_pad` resolved; one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How far a dilated kernel reaches."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @staticmethod
    def of(node: Node, kernel: tuple[int, ...]) -> Window:
        """The window of a Conv or pooling node."""
        axes = len(kernel)
        strides = tuple(node.attribute("strides", [1] * axes))
        dilations = tuple(node.attribute("dilations", [1] * axes))
        pads = tuple(node.attribute("pads", [0] * 2 * axes))
        mode = node.attribute("auto_pad", "NOTSET")
        window = Window(kernel, strides, dilations, pads[:axes], pads[axes:])
        if mode == "VALID":
            return Window(kernel, strides, dilations, (0,) * axes, (0,) * axes)
        if mode.startswith("SAME"):
            totals = []
            for size, stride, extent in zip(spatial(node), strides, window.extents, strict=True):
                if size is None and stride > 1:
                    raise unsupported(
                        node, f"pads by {mode} for an unknown height or width, which must be declared in the graph"
                    )
                short = extent - stride if size is None else (-(-size // stride) - 1) * stride + extent - size
                if short < -1:
                    raise unsupported(
                        node,
                        f"pads by {mode} windows so far apart that the width is negative, which runtimes do each in its way",
                    )
                totals.append(max(short, 0))
            small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
            begins, ends = (small, large) if mode == "SAME_UPPER" else (large, small)
            return Window(kernel, strides, dilations, begins, ends)
        return window


def spatial(node: Node) -> tuple[int | None, ...]:
    """Lengths of the axes after batch and channels of a node's first input."""
    shape = node.shape()
    if shape is None:
        raise unsupported(node, "has an input of unknown rank")
    return shape[2:]


def kernel_shape(node: Node) -> tuple[int, ...]:
    """The kernel's spatial shape, from its attribute or its weights."""
    shape = node.attribute("kernel_shape") or (node.shape(1) or ())[2:]
    if not shape or None in shape:
        raise unsupported(node, "has a kernel of unknown shape")
    return tuple(shape)


@vjp("Conv")
def conv(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = w * x;  dx = the transposed convolution of g with w.

    At stride 1 that is an ordinary convolution with the kernel rotated by 180 degrees and its channels swapped, which runs on the
    fast blocked kernels that a transposed convolution lacks. At a larger stride it is several such, one for each place in a stride.
    """
    window = Window.of(node, kernel_shape(node))
    others = [None] * (len(node.inputs) - 1)
    groups = node.attribute("group", 1)
    begins = [e - 1 - p for e, p in zip(window.extents, window.begins, strict=True)]
    ends = [e - 1 - p for e, p in zip(window.extents, window.ends, strict=True)]
    weights = node.constant(1)
    if weights is not None and set(window.strides) == {1} and min(begins + ends) >= 0:
        rotated = rotate(weights, groups)
        return [op.Conv(g, rotated, pads=begins + ends, dilations=window.dilations, group=groups), *others]
    if weights is not None and groups == 1:
        if set(window.kernel) == {1} and set(window.strides) != {1}:
            # A plain convolution of g does all the multiplying, in the fast kernels. The transposed convolution after it has ones
            # as weights and only spreads the results out.
            ones = np.ones((weights.shape[1], 1, *window.kernel), weights.dtype)
            return [_transposed(op, node, op.Conv(g, rotate(weights, 1)), window, ones, len(ones)), *others]
        fast = _sub_pixel(op, node, g, window, weights)
        if fast is not None:
            return [fast, *others]
    return [_transposed(op, node, g, window, node.input(1), groups), *others]


def rotate(weights: Array, groups: int) -> Array:
    """Kernels turned by 180 degrees, input and output channels of each group swapped: `[o, c/groups, ...]` -> `[c, o/groups, ...]`."""
    o, c, *kernel = weights.shape
    swapped = weights.reshape(groups, o // groups, c, *kernel).swapaxes(1, 2).reshape(groups * c, o // groups, *kernel)
    return np.flip(swapped, tuple(range(2, swapped.ndim)))


def _sub_pixel(op: Emitter, node: Node, g: str, window: Window, weights: Array) -> str | None:
    """The transposed convolution in the fast kernels, None where that would not be faster.

    At place r of a stride s, dx[s i + r] = sum over d of w[r + begin - s d] g[i + d]: a plain convolution with every s-th tap. The
    s x s results are woven together as pixels of one (Shi et al. 2016, arXiv:1609.05158). One convolution makes them all where no
    tap of it is zero, or where channels are few, as those of a picture; otherwise there are four.
    """
    sizes, result, stride = spatial(node), op.graph.shape(node.outputs[0]), window.strides[0]
    square = len(sizes) == 2 and set(window.strides) == {stride} and set(window.dilations) == {1}
    if not square or min(window.kernel) < stride or result is None or None in result[2:]:
        return None
    if any(size is None or size % stride for size in sizes):
        return None
    o, c = weights.shape[:2]
    taps = [[_taps(window, axis, place) for place in range(stride)] for axis in (0, 1)]
    room = [(size or 0) // stride - (length or 0) for size, length in zip(sizes, result[2:], strict=True)]
    if any(min(found) > 0 or room[axis] + max(found) < 0 for axis in (0, 1) for found in taps[axis]):
        return None
    places = [(rows, columns) for rows in taps[0] for columns in taps[1]]
    together = c * stride**2 <= 4 * BLOCK or all(k % stride == 0 for k in window.kernel)
    if not together and stride != 2:
        return None
    parts = []
    for batch in [places] if together else [[place] for place in places]:
        reach = [[d for place in batch for d in place[axis]] for axis in (0, 1)]
        low, high = [min(d) for d in reach], [max(d) for d in reach]
        kernel = np.zeros((len(batch), c, o, high[0] - low[0] + 1, high[1] - low[1] + 1), weights.dtype)
        for number, (rows, columns) in enumerate(batch):
            for i, row in rows.items():
                for j, column in columns.items():
                    kernel[number, :, :, i - low[0], j - low[1]] = weights[:, :, row, column].T
        pads = [-low[0], -low[1], room[0] + high[0], room[1] + high[1]]
        parts.append(op.Conv(g, kernel.reshape(-1, *kernel.shape[2:]), pads=pads))
    woven = op.DepthToSpace(op.Concat(*parts, axis=1) if len(parts) > 1 else parts[0], blocksize=stride, mode="DCR")
    return enter_blocks(op, woven, node)


def _taps(window: Window, axis: int, place: int) -> dict[int, int]:
    """Which tap of the kernel meets g at which distance, at one place in a stride along an axis."""
    stride, first = window.strides[axis], place + window.begins[axis]
    return {(first - tap) // stride: tap for tap in range(window.kernel[axis]) if (first - tap) % stride == 0}


def _transposed(op: Emitter, node: Node, g: str, window: Window, weights: Array | str, groups: int) -> str:
    """ConvTranspose to the input's exact size. `output_shape` would make the runtime choose pads of its own, so pads are given."""
    sizes = spatial(node)
    settings = {"strides": window.strides, "dilations": window.dilations, "group": groups}
    if None not in sizes:
        rest = [
            (size + b + e - extent) % s
            for size, b, e, extent, s in zip(
                sizes, window.begins, window.ends, window.extents, window.strides, strict=True
            )
            if size is not None
        ]
        pads = [*window.begins, *window.ends]
        return enter_blocks(op, op.ConvTranspose(g, weights, pads=pads, output_padding=rest, **settings), node)
    axes = list(range(2, 2 + len(sizes)))
    full = op.ConvTranspose(g, weights, **settings)
    size = op.Slice(op.Shape(node.input(0)), [2], [2 + len(sizes)])
    padded = op.Add(size, list(window.begins))
    short = op.Max(op.Sub(padded, op.Slice(op.Shape(full), [2], [2 + len(sizes)])), [0] * len(sizes))
    full = op.Pad(full, op.Concat([0] * (4 + len(sizes)), short, axis=0))
    return op.Slice(full, list(window.begins), padded, axes)


@vjp("ConvTranspose")
def conv_transpose(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the transposed convolution of x with w;  dx = w * g, the plain convolution at the same window.

    Where y was cut or padded to a wanted size, g is padded or cut accordingly first.
    """
    kernel = kernel_shape(node)
    axes = len(kernel)
    strides, dilations = node.attribute("strides", [1] * axes), node.attribute("dilations", [1] * axes)
    sizes, result = spatial(node), (op.graph.shape(node.outputs[0]) or ())[2:]
    settings = {"strides": strides, "dilations": dilations, "group": node.attribute("group", 1)}
    others = [None] * (len(node.inputs) - 1)
    if node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not node.attribute("output_shape"):
        pads = node.attribute("pads", [0] * 2 * axes)
        extra = node.attribute("output_padding", [0] * axes)
        ends = [end - more for end, more in zip(pads[axes:], extra, strict=True)]
        return [_conv_padded(op, g, node.input(1), [*pads[:axes], *ends], axes, settings), *others]
    if None in sizes or not result or None in result:
        raise unsupported(node, "fixes its output's size, for an input of unknown height or width")
    totals = [
        max((n or 0) * s - s + (k - 1) * d + 1 + extra - (m or 0), 0)
        for n, m, s, k, d, extra in zip(
            sizes, result, strides, kernel, dilations, node.attribute("output_padding", [0] * axes), strict=True
        )
    ]
    upper = node.attribute("auto_pad", "NOTSET") == "SAME_UPPER"
    begins = [t // 2 if upper else t - t // 2 for t in totals]
    ends = [
        (n or 0) * s - s + (k - 1) * d + 1 - b - (m or 0)
        for n, m, s, k, d, b in zip(sizes, result, strides, kernel, dilations, begins, strict=True)
    ]
    return [_conv_padded(op, g, node.input(1), [*begins, *ends], axes, settings), *others]


def _conv_padded(op: Emitter, g: str, weights: str, pads: list[int], axes: int, settings: dict[str, Any]) -> str:
    """Conv with pads that may be negative, which means that g is cut."""
    if min(pads) < 0:
        g = op.pad(g, 2 + axes, {2 + i: (min(pads[i], 0), min(pads[axes + i], 0)) for i in range(axes)})
    return op.Conv(g, weights, pads=[max(p, 0) for p in pads], **settings)


@vjp("Col2Im")
def col2im(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = columns added where their windows lie;  dx = the windows of g as columns: a convolution with one kernel per window place."""
    block, shape, columns = node.constant(2), op.graph.shape(node.outputs[0]), node.shape()
    if block is None or shape is None or shape[1] is None or columns is None:
        raise unsupported(node, "has windows that are not fixed in the graph")
    kernel, channels = [int(k) for k in block], shape[1]
    places = int(np.prod(kernel))
    one_hot = np.tile(np.eye(places).reshape(places, 1, *kernel), (channels, *[1] * (1 + len(kernel)))).astype(
        op.numpy_dtype
    )
    windows = op.Conv(
        g,
        one_hot,
        group=channels,
        **{k: v for k, v in node.attributes.items() if k in ("pads", "strides", "dilations")},
    )
    return [op.Reshape(windows, np.array([0, channels * places, -1], np.int64)), None, None]
