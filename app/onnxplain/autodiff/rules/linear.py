"""Matrix products, and the Fourier transform, which is one."""

from __future__ import annotations

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp


@vjp("Gemm")
def gemm(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = alpha a' b' + beta c, a' and b' transposed if asked;  da' = alpha g b'^T,  db' = alpha a'^T g,  dc = beta g."""
    a, b = node.inputs[:2]
    turn_a, turn_b = node.attribute("transA", 0), node.attribute("transB", 0)
    scale = {"alpha": node.attribute("alpha", 1.0)}
    da = db = dc = None
    if node.wanted[0]:
        da = op.Gemm(b, g, transA=turn_b, transB=1, **scale) if turn_a else op.Gemm(g, b, transB=1 - turn_b, **scale)
    if node.wanted[1]:
        db = op.Gemm(g, a, transA=1, transB=turn_a, **scale) if turn_b else op.Gemm(a, g, transA=1 - turn_a, **scale)
    if len(node.wanted) > 2 and node.wanted[2]:
        dc = op.sum_to(op.Mul(g, float(node.attribute("beta", 1.0))), op.graph.extents(node.outputs[0]), node.input(2))
    return [da, db, dc][: len(node.inputs)]


@vjp("MatMul")
def matmul(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a b;  da = g b^T,  db = a^T g; a vector is a matrix with one row (a) or one column (b)."""
    a, b = node.inputs
    rank_a, rank_b = node.rank(0), node.rank(1)
    if rank_a is None or rank_b is None:
        raise unsupported(node, "has an operand of unknown rank")
    if rank_a == 1:
        g, a = op.Unsqueeze(g, [-2] if rank_b > 1 else [0]), op.Unsqueeze(a, [0])
    if rank_b == 1:
        g, b = op.Unsqueeze(g, [-1]), op.Unsqueeze(b, [1])
    results: list[str | None] = [None, None]
    if node.wanted[0]:
        results[0] = _matrix_sum_to(op, node, 0, op.MatMul(g, transpose(op, node, 1, b)))
    if node.wanted[1]:
        results[1] = _matrix_sum_to(op, node, 1, op.MatMul(transpose(op, node, 0, a), g))
    return results


def transpose(op: Emitter, node: Node, index: int, value: str) -> str:
    """A matrix operand with its last two axes swapped; a constant is turned right here."""
    rank = max(node.rank(index) or 0, 2)
    constant = node.constant(index)
    if constant is not None:
        if constant.ndim == 1:
            constant = constant[None] if index == 0 else constant[:, None]
        return op.name_of(np.swapaxes(constant, -1, -2))
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matrix_sum_to(op: Emitter, node: Node, index: int, value: str) -> str:
    """The cotangent of a matrix operand in its own shape: summed over broadcast batch axes, a vector as vector."""
    graph, name = op.graph, node.inputs[index]
    own, result, other = graph.extents(name), graph.extents(node.outputs[0]), graph.extents(node.inputs[1 - index])
    if len(own or ()) == 1 or len(other or ()) == 1:
        if len(own or ()) == 1:
            value = op.Squeeze(value, [-2 if index == 0 else -1])
            extents = None if own is None or result is None else (*result[:-1], *own)
            return op.sum_to(value, extents, name)
        return value
    extents = None if own is None or result is None else (*result[:-2], *own[-2:])
    return op.sum_to(value, extents, name)


@vjp("Einsum")
def einsum(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a product of operands, summed over the letters that y lacks;  dx = the same with y's letters and x's exchanged.

    A letter that only x has was summed away alone: there dx is repeated.
    """
    letters, result = _letters(node)
    cotangents: list[str | None] = []
    for index, own in enumerate(letters):
        if not node.wanted[index]:
            cotangents.append(None)
            continue
        others = [i for i in range(len(letters)) if i != index]
        known = set(result).union(*(letters[i] for i in others))
        kept = "".join(c for c in own if c in known)
        equation = ",".join([result, *(letters[i] for i in others)]) + "->" + kept
        dx = op.Einsum(g, *(node.inputs[i] for i in others), equation=equation)
        alone = [axis for axis, c in enumerate(own) if c not in known]
        if alone:
            dx = op.repeat(op.Unsqueeze(dx, alone), node.inputs[index], alone)
        cotangents.append(dx)
    return cotangents


def _letters(node: Node) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis spelled out in capitals that the equation does not use."""
    equation = node.attribute("equation").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = terms.split(",")
    if "..." in terms:
        ranks = [node.rank(index) for index in range(len(operands))]
        counts = {
            rank - len(term) + 3
            for term, rank in zip(operands, ranks, strict=True)
            if "..." in term and rank is not None
        }
        if None in ranks or len(counts) != 1:
            raise unsupported(node, "broadcasts axes of its ellipsis")
        spare = "".join(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation)[: counts.pop()]
        operands, result = [term.replace("...", spare) for term in operands], result.replace("...", spare)
        lengths = [
            dict(zip(term, node.graph.extents(x) or (), strict=True))
            for term, x in zip(operands, node.inputs, strict=True)
        ]
        if any(len({length[c] for length in lengths if c in length}) > 1 for c in spare):
            raise unsupported(node, "broadcasts axes of its ellipsis")
    if any(len(set(term)) != len(term) for term in operands):
        raise unsupported(node, "takes a diagonal by a repeated letter")
    if not arrow:
        joined = "".join(operands)
        result = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return operands, result


@vjp("DFT")
def dft(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = M x along one axis, real and imaginary part being two more rows and columns;  dx = M^T g."""
    shape, axis = node.shape(), _signal_axis(node)
    length = node.constant(1)
    if shape is None or axis is None or None in (shape[axis], shape[-1]) or (node.input(1) and length is None):
        raise unsupported(node, "transforms along an axis, or to a length, that is not fixed in the graph")
    n, parts = shape[axis] or 0, shape[-1] or 0
    one_sided, inverse = node.attribute("onesided", 0), node.attribute("inverse", 0)
    size = int(length.item()) if length is not None else 2 * (n - 1) if one_sided and inverse else n
    matrix = _fourier(n, parts, size, one_sided=bool(one_sided), inverse=bool(inverse)).T.astype(op.numpy_dtype)
    rank = len(shape)
    leading = [other for other in range(rank - 1) if other != axis]
    turned = [*leading, axis, rank - 1]
    rows = op.Reshape(op.Transpose(g, perm=turned), [*[0] * (rank - 2), -1])
    dx = op.Reshape(op.MatMul(rows, matrix), [*[0] * (rank - 2), n, parts])
    return [op.Transpose(dx, perm=np.argsort(turned).tolist()), *[None] * (len(node.inputs) - 1)]


def _signal_axis(node: Node) -> int | None:
    """The axis that is transformed: an attribute until opset 19, an input since, the last but one where it is absent."""
    rank = node.rank()
    if node.graph.opset[""] < 20:
        axis = node.attribute("axis", 1)
    elif not node.input(2):
        axis = -2
    else:
        given = node.constant(2)
        axis = None if given is None else int(given.item())
    return None if axis is None or rank is None else axis % rank


def _fourier(n: int, parts: int, size: int, *, one_sided: bool, inverse: bool) -> Array:
    """[n * parts, k * parts of y]: the transform of every unit vector, with what it pads and cuts."""
    units = np.eye(n * parts).reshape(-1, n, parts)
    signal = units[..., 0] + 1j * units[..., 1] if parts == 2 else units[..., 0]
    if inverse and one_sided:
        return np.fft.irfft(signal, size)
    transform = np.fft.ifft if inverse else np.fft.rfft if one_sided else np.fft.fft
    spectrum = transform(signal, size)
    return np.stack([spectrum.real, spectrum.imag], -1).reshape(len(units), -1)
