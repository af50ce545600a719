"""Attributions to the pixels of the input: formulas on arrays and callables, one function a method.

x is the picture f32[1, ch, h, w] as the model takes it, Y the target's score before softmax. A map is f32[h, w] with the
channels of the picture joined as the method says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Gradient = Callable[[Floats], Floats]  # pictures f32[n, ch, h, w] -> gradients of the same shape, of one target's score
Predict = Callable[[Floats], Floats]  # pictures f32[n, ch, h, w] -> scores f32[n, k]
Report = Callable[[float], None]


def saliency(G: Floats) -> Floats:
    """`max_ch |G|` of the gradient G = dY/dx f32[ch, h, w], Simonyan et al. 2014 (arXiv:1312.6034), section 3.1."""
    return np.asarray(np.abs(G).max(axis=0), np.float32)


def input_x_gradient(x: Floats, G: Floats) -> Floats:
    """`sum_ch x G` of picture and gradient f32[ch, h, w], signed, Shrikumar et al. 2016 (arXiv:1605.01713), section 3.3."""
    return np.asarray((x * G).sum(axis=0), np.float32)


def integrated_gradients(
    x: Floats, gradient: Gradient, baseline: Floats, steps: int, *, batch: int, report: Report
) -> Floats:
    """`sum_ch (x - b) * integral_0^1 dY/dx(b + a (x - b)) da`, signed, Sundararajan et al. 2017 (arXiv:1703.01365), equation 1.

    The integral is taken with `steps` points of Gauss and Legendre. The map adds up to `Y(x) - Y(b)` (their axiom of
    completeness), up to the error of that.

    Args:
        x: the picture f32[1, ch, h, w].
        gradient: of the target's score.
        baseline: f32[1, ch, h, w] or broadcast to it, the picture without information.
        steps: points of the integral.
        batch: pictures in one run.
        report: takes the fraction that is done.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places = ((nodes + 1) / 2).astype(np.float32)
    shares = (weights / 2).astype(np.float32)
    way = x - baseline
    total = np.zeros_like(x[0], np.float64)
    for start in range(0, steps, batch):
        part = slice(start, start + batch)
        gradients = gradient(baseline + places[part, None, None, None] * way)
        total += np.tensordot(shares[part], gradients, axes=1)
        report(min(1.0, (start + batch) / steps))
    return np.asarray((way[0] * total).sum(axis=0), np.float32)


def smooth_grad(
    x: Floats, gradient: Gradient, samples: int, noise: float, seed: int, *, batch: int, report: Report
) -> Floats:
    """`max_ch |mean_i dY/dx(x + e_i)|` with `e_i ~ N(0, noise (max x - min x))`, Smilkov et al. 2017 (arXiv:1706.03825), section 3.1.

    Args:
        x: the picture f32[1, ch, h, w].
        gradient: of the target's score.
        samples: noisy copies.
        noise: standard deviation, as a fraction of the picture's range.
        seed: of the noise.
        batch: pictures in one run.
        report: takes the fraction that is done.
    """
    random = np.random.default_rng(seed)
    deviation = np.float32(noise) * (x.max() - x.min())
    total = np.zeros(x.shape[1:], np.float64)
    for start in range(0, samples, batch):
        count = min(batch, samples - start)
        noisy = x + deviation * random.standard_normal((count, *x.shape[1:]), np.float32)
        total += gradient(noisy).sum(axis=0, dtype=np.float64)
        report((start + count) / samples)
    return np.asarray(np.abs(total / samples).max(axis=0), np.float32)


def occlusion(
    x: Floats,
    predict: Predict,
    targets: Sequence[int],
    window: int,
    stride: int,
    fill: Floats | float = 0.0,
    *,
    batch: int,
    report: Report,
) -> list[Floats]:
    """How much the score falls when a square of the picture is covered, Zeiler and Fergus 2014 (arXiv:1311.2901), section 4.2.

    Each pixel gets the mean fall `Y(x) - Y(x covered)` of all squares that lie on it; signed.

    Args:
        x: the picture f32[1, ch, h, w].
        predict: scores of pictures.
        targets: classes t; all of them share the runs.
        window: side of the square in pixels of the model's input.
        stride: from one square to the next; the last square of a line ends at the edge.
        fill: what covers, as the model's input has it: 0, or f32 that broadcasts to [ch, window, window].
        batch: pictures in one run.
        report: takes the fraction that is done.

    Returns:
        f32[h, w] for each target.
    """
    height, width = x.shape[2:]
    places = [(top, left) for top in _starts(height, window, stride) for left in _starts(width, window, stride)]
    chosen = list(targets)
    own = predict(x)[0, chosen]
    falls = np.zeros((len(chosen), height, width), np.float64)
    squares = np.zeros((height, width), np.int64)
    for start in range(0, len(places), batch):
        group = places[start : start + batch]
        covered = np.repeat(x, len(group), axis=0)
        for picture, (top, left) in zip(covered, group, strict=True):
            picture[:, top : top + window, left : left + window] = fill
        scores = predict(covered)[:, chosen]
        for (top, left), score in zip(group, scores, strict=True):
            falls[:, top : top + window, left : left + window] += (own - score)[:, None, None]
            squares[top : top + window, left : left + window] += 1
        report(min(1.0, (start + batch) / len(places)))
    return list((falls / np.maximum(squares, 1)).astype(np.float32))


def _starts(length: int, window: int, stride: int) -> list[int]:
    last = max(length - window, 0)
    return list(dict.fromkeys([*range(0, last, stride), last]))


def rise(
    x: Floats,
    confidence: Predict,
    targets: Sequence[int],
    samples: int,
    grid: int,
    kept: float,
    seed: int,
    *,
    batch: int,
    report: Report,
) -> list[Floats]:
    """RISE: `1 / (samples kept) * sum_i P(x M_i) M_i`, Petsiuk et al. 2018 (arXiv:1806.07421), equation 6.

    A mask M_i is a grid of zeros and ones (one with probability `kept`), enlarged bilinearly by a little more than the picture
    and cut at a random place (their section 3.2). What a mask hides becomes 0, in the model's own units.

    Args:
        x: the picture f32[1, ch, h, w].
        confidence: pictures -> f32[n, k], probabilities where the model has them, as in the paper.
        targets: classes t; all of them share the runs.
        samples: masks.
        grid: cells a side.
        kept: probability that a cell is shown.
        seed: of the masks.
        batch: pictures in one run.
        report: takes the fraction that is done.

    Returns:
        f32[h, w] for each target.
    """
    random = np.random.default_rng(seed)
    height, width = x.shape[2:]
    chosen = list(targets)
    total = np.zeros((len(chosen), height, width), np.float64)
    for start in range(0, samples, batch):
        masks = _masks(random, min(batch, samples - start), grid, kept, (height, width))
        scores = confidence(x * masks[:, None])[:, chosen]
        total += np.tensordot(scores.T, masks, axes=1)
        report(min(1.0, (start + batch) / samples))
    return list((total / (samples * kept)).astype(np.float32))


def _masks(random: np.random.Generator, count: int, grid: int, kept: float, size: tuple[int, int]) -> Floats:
    """Random masks f32[count, h, w] between 0 and 1."""
    cells = (random.random((count, grid + 1, grid + 1)) < kept).astype(np.float32)
    steps = [-(-side // grid) for side in size]
    shifts = [random.integers(0, step, count) for step in steps]
    masks = np.empty((count, *size), np.float32)
    for index in range(count):
        rows, columns = (
            _between(grid + 1, (np.arange(side) + int(shift[index])) / step)
            for side, shift, step in zip(size, shifts, steps, strict=True)
        )
        masks[index] = rows @ cells[index] @ columns.T
    return masks


def _between(cells: int, places: NDArray[np.float64]) -> Floats:
    """Linear interpolation between `cells` at these places, as a matrix f32[n, cells]."""
    lower = np.minimum(places.astype(np.intp), cells - 2)
    weight = np.clip(places - lower, 0, 1).astype(np.float32)
    matrix = np.zeros((len(places), cells), np.float32)
    index = np.arange(len(places))
    matrix[index, lower] = 1 - weight
    matrix[index, lower + 1] = weight
    return matrix
