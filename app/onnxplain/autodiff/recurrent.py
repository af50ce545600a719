"""Recurrent layers written out step by step: the products and gates of every step have rules, so the layer as a whole needs none.

Only gradient graphs are unrolled; predictions keep the runtime's own kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Node

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MOST_STEPS = 256  # steps written out at most; a step is some thirty nodes, its gradient included

States = tuple[str, ...]
Names = Sequence[str]


def unroll(op: Emitter, node: Node) -> list[str] | None:
    """The outputs Y, Y_h and Y_c of the layer; None for a usage that is not written out here."""
    shape, weights, recurrence, biases = node.shape(0), *(node.constant(index) for index in (1, 2, 3))
    if shape is None or shape[0] is None or weights is None or recurrence is None or not _is_plain(node):
        return None
    if shape[0] > MOST_STEPS or (node.input(3) and biases is None):
        return None
    directions, width, _ = weights.shape
    step, states = _STEPS[node.operator, node.attribute("linear_before_reset", 0)]
    parts = 3 if node.operator == "GRU" else 1  # the gates of a GRU meet its past one by one
    sequences, ends = [], []
    for direction in range(directions):
        own, past = np.split(biases[direction], 2) if biases is not None else (np.zeros(width, weights.dtype),) * 2
        matrices = [op.name_of(part) for part in np.split(recurrence[direction].T, parts, axis=1)]
        offsets = [op.name_of(part) for part in np.split(past, parts)]
        seen = op.Add(op.MatMul(node.input(0), weights[direction].T), own)
        inputs = op.emit("Split", seen, outputs=shape[0], axis=0, num_outputs=shape[0])
        state: States = tuple(
            op.Gather(node.input(5 + i), np.array(direction), axis=0)
            if node.input(5 + i)
            else op.name_of(np.zeros((1, recurrence.shape[2]), weights.dtype))
            for i in range(states)
        )
        backwards = node.attribute("direction", "forward") == "reverse" or direction == 1
        found = [""] * shape[0]
        for t in range(shape[0])[:: -1 if backwards else 1]:
            state = step(op, op.Squeeze(inputs[t], [0]), state, matrices, offsets)
            found[t] = op.Unsqueeze(state[0], [0, 1])
        sequences.append(op.Concat(*found, axis=0))
        ends.append([op.Unsqueeze(value, [0]) for value in state])
    return [op.Concat(*sequences, axis=1), *(op.Concat(*values, axis=0) for values in zip(*ends, strict=True))]


def _is_plain(node: Node) -> bool:
    """Whether the layer runs over whole sequences, time first, with the usual activations and no extras."""
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[node.operator]
    activations = [name.decode() for name in node.attribute("activations", [])]
    extras = {"clip", "layout", "input_forget", "activation_alpha", "activation_beta"}
    return (
        not (node.input(4) or node.input(7))
        and activations in ([], usual, usual * 2)
        and not any(node.attribute(name) for name in extras)
    )


def _lstm(op: Emitter, x: str, state: States, r: Names, b: Names) -> States:
    """i, o, f, g = x + h R + b;  c = s(f) c + s(i) tanh(g),  h = s(o) tanh(c)."""
    h, c = state
    i, o, f, g = op.emit("Split", op.Add(x, op.Add(op.MatMul(h, r[0]), b[0])), outputs=4, axis=-1, num_outputs=4)
    c = op.Add(op.Mul(op.Sigmoid(f), c), op.Mul(op.Sigmoid(i), op.Tanh(g)))
    return op.Mul(op.Sigmoid(o), op.Tanh(c)), c


def _gru(op: Emitter, x: str, state: States, r: Names, b: Names, *, reset_late: bool) -> States:
    """z, q = s(x + h R + b),  n = tanh(x + q (h R + b)) or tanh(x + (q h) R + b);  h = n + z (h - n)."""
    (h,) = state
    z, q, x_new = op.emit("Split", x, outputs=3, axis=-1, num_outputs=3)
    r_z, r_q, r_new = r
    b_z, b_q, b_new = b
    z = op.Sigmoid(op.Add(z, op.Add(op.MatMul(h, r_z), b_z)))
    q = op.Sigmoid(op.Add(q, op.Add(op.MatMul(h, r_q), b_q)))
    if reset_late:
        past = op.Mul(q, op.Add(op.MatMul(h, r_new), b_new))
    else:
        past = op.Add(op.MatMul(op.Mul(q, h), r_new), b_new)
    new = op.Tanh(op.Add(x_new, past))
    return (op.Add(new, op.Mul(z, op.Sub(h, new))),)


def _rnn(op: Emitter, x: str, state: States, r: Names, b: Names) -> States:
    """h = tanh(x + h R + b)."""
    return (op.Tanh(op.Add(x, op.Add(op.MatMul(state[0], r[0]), b[0]))),)


_STEPS: dict[tuple[str, int], tuple[Callable[[Emitter, str, States, Names, Names], States], int]] = {
    ("LSTM", 0): (_lstm, 2),
    ("GRU", 0): (partial(_gru, reset_late=False), 1),
    ("GRU", 1): (partial(_gru, reset_late=True), 1),
    ("RNN", 0): (_rnn, 1),
}  # what a step computes, and how many states it hands on
