"""Class activation maps: formulas on arrays, one function a method.

Letters as everywhere in the documents: A activations f32[c, u, v] of a layer; G f32[c, u, v] the gradient of the target's score
Y, before softmax, with respect to A; c channels, (u, v) places. A map is f32[u, v], not normalised, negative parts cut off:
evidence for the class. Constants are those of pytorch-grad-cam 1.5, which the maps agree with.

Most methods weigh activations and add up the channels. How they add up is `combine`: `summed`, or `first_component` for what is
known as eigen smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Combine = Callable[[Floats], Floats]
Predict = Callable[[Floats], Floats]
Report = Callable[[float], None]


def summed(contributions: Floats) -> Floats:
    """`ReLU(sum_c C_c)` of contributions f32[c, u, v]."""
    return positive(contributions.sum(axis=0))


def first_component(contributions: Floats) -> Floats:
    """The places' coordinates on the first principal component of the channels, negative parts cut off.

    A component has no sign of its own; it gets the one with which it agrees with the plain sum over channels, so that the same
    input always gives the same map and its bright places are those of the evidence.
    """
    if not np.isfinite(contributions).all():  # an overflow has no components; the map says so by its values
        return np.full_like(contributions[0], np.nan)
    c, u, v = contributions.shape
    points = contributions.reshape(c, u * v).T.astype(np.float64)
    centred = points - points.mean(axis=0)
    if u * v <= c:  # the smaller of the two matrices has the same component
        values, vectors = np.linalg.eigh(centred @ centred.T)
        coordinates = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    else:
        coordinates = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    total = points.sum(axis=1)
    agreement = float(coordinates @ (total - total.mean()))
    if agreement < 0 or (agreement == 0 and coordinates[np.argmax(np.abs(coordinates))] < 0):
        coordinates = -coordinates
    return positive(coordinates.reshape(u, v))


def grad_cam(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """Grad-CAM: `ReLU(sum_c mean_uv(G_c) A_c)`, Selvaraju et al. 2017 (arXiv:1610.02391), equations 1 and 2."""
    weights = G.reshape(len(G), -1).mean(axis=1)
    if combine is summed:
        return positive((weights @ A.reshape(len(A), -1)).reshape(A.shape[1:]))
    return combine(_spread(weights) * A)


def hires_cam(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """HiResCAM: `ReLU(sum_c G_c A_c)`, place by place, Draelos and Carin 2020 (arXiv:2011.08891), equation 3."""
    return combine(G * A)


def grad_cam_elementwise(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """Element-wise Grad-CAM: `sum_c ReLU(G_c A_c)`: HiResCAM in which channels that speak against the class are left out.

    It has no paper of its own; pytorch-grad-cam's GradCAMElementWise.
    """
    return combine(positive(G * A))


def grad_cam_plusplus(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """Grad-CAM++: `ReLU(sum_c w_c A_c)`, Chattopadhay et al. 2018 (arXiv:1710.11063), equations 5, 6 and 19.

    `w_c = sum_uv a_c ReLU(G_c)` with `a_c = G_c^2 / (2 G_c^2 + sum_uv(A_c) G_c^3 + 1e-6)`, and 0 where G is 0.
    """
    squares = G * G
    alpha = squares / (2 * squares + _spread(A.sum(axis=(1, 2))) * squares * G + np.float32(1e-6))
    weights = (np.where(G != 0, alpha, np.float32(0)) * positive(G)).sum(axis=(1, 2))
    return combine(_spread(weights) * A)


def x_grad_cam(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """XGrad-CAM: `ReLU(sum_c w_c A_c)`, `w_c = sum_uv G_c A_c / (sum_uv A_c + 1e-7)`, Fu et al. 2020 (arXiv:2008.02312), equation 8."""
    totals = A.sum(axis=(1, 2)) + np.float32(1e-7)
    weights = (G * A / _spread(totals)).sum(axis=(1, 2))
    return combine(_spread(weights) * A)


def layer_cam(A: Floats, G: Floats, combine: Combine = summed) -> Floats:
    """LayerCAM: `ReLU(sum_c ReLU(G_c) A_c)`, Jiang et al. 2021 (doi:10.1109/TIP.2021.3089943), equations 6 to 8."""
    return combine(positive(G) * A)


def eigen_cam(A: Floats) -> Floats:
    """Eigen-CAM: the first principal component of A, for no class in particular, Muhammad and Yeasin 2020 (arXiv:2008.00299)."""
    return first_component(A)


def eigen_grad_cam(A: Floats, G: Floats) -> Floats:
    """Eigen-CAM of G A, and so for a class; pytorch-grad-cam's EigenGradCAM."""
    return first_component(G * A)


def activation(A: Floats) -> Floats:
    """Mean activation: `ReLU(mean_c A_c)`, where the layer responds at all, for no class in particular."""
    return positive(A.mean(axis=0))


def score_cam(
    A: Floats,
    x: Floats,
    predict: Predict,
    targets: Sequence[int],
    combine: Combine = summed,
    *,
    batch: int,
    report: Report,
) -> list[Floats]:
    """Score-CAM: `ReLU(sum_c w_c A_c)`, `w = softmax_c Y(x H_c)`, Wang et al. 2020 (arXiv:1910.01279), equations 8 and 9.

    H_c is A_c enlarged to the picture (bilinear, corners aligned) and scaled to 0..1.

    Args:
        A: activations f32[c, u, v].
        x: the picture f32[1, ch, h, w].
        predict: f32[n, ch, h, w] -> scores f32[n, k].
        targets: classes t.
        combine: how channels are added up.
        batch: pictures in one run.
        report: takes the fraction that is done.

    Returns:
        One map a target; all of them share the runs, one a channel.
    """
    rows, columns = (_aligned(cells, size) for cells, size in zip(A.shape[1:], x.shape[2:], strict=True))
    scores = []
    for start in range(0, len(A), batch):
        enlarged = rows @ A[start : start + batch] @ columns.T
        lowest = enlarged.min(axis=(1, 2), keepdims=True)
        highest = enlarged.max(axis=(1, 2), keepdims=True)
        masks = (enlarged - lowest) / (highest - lowest + np.float32(1e-8))
        scores.append(predict(x * masks[:, None])[:, list(targets)])
        report(min(1.0, (start + batch) / len(A)))
    powers = np.concatenate(scores)
    powers = np.exp(powers - powers.max(axis=0))
    return [combine(_spread(weights) * A) for weights in (powers / powers.sum(axis=0)).T]


def ablation_cam(
    A: Floats,
    Y: Floats,
    tail: Predict,
    targets: Sequence[int],
    combine: Combine = summed,
    *,
    batch: int,
    report: Report,
) -> list[Floats]:
    """Ablation-CAM: `ReLU(sum_c w_c A_c)`, `w_c = (Y - Y_c) / |Y|`, Desai and Ramaswamy 2020 (doi:10.1109/WACV45572.2020.9093360).

    Y_c is the score when channel c is set to zero. The paper divides by Y, which turns every sign where the score is negative;
    dividing by its size changes nothing where it is positive.

    Args:
        A: activations f32[c, u, v].
        Y: scores f32[k] of the unchanged picture.
        tail: activations f32[n, c, u, v] -> scores f32[n, k].
        targets: classes t.
        combine: how channels are added up.
        batch: channels in one run.
        report: takes the fraction that is done.

    Returns:
        One map a target; all of them share the runs, one a channel.
    """
    chosen = list(targets)
    scores = np.empty((len(A), len(chosen)), np.float32)
    for start in range(0, len(A), batch):
        end = min(start + batch, len(A))
        without = np.repeat(A[None], end - start, axis=0)
        without[np.arange(end - start), np.arange(start, end)] = 0
        scores[start:end] = tail(without)[:, chosen]
        report(end / len(A))
    own = Y[chosen]
    drops = (own - scores) / np.maximum(np.abs(own), np.float32(1e-12))
    return [combine(_spread(weights) * A) for weights in drops.T]


def full_grad(x: Floats, G: Floats, biases: Sequence[Floats], gradients: Sequence[Floats]) -> Floats:
    """FullGrad: input times gradient, plus bias times gradient of every layer that has one, Srinivas and Fleuret 2019
    (arXiv:1905.00780), equation 4 with the post-processing of section 4.2, done channel by channel.

    Args:
        x: the picture f32[ch, h, w].
        G: its gradient f32[ch, h, w].
        biases: f32[c] of each layer.
        gradients: f32[c, u, v] of the score with respect to that layer's output.

    Returns:
        f32[h, w]: every channel of `|x G|` and `|b G|` scaled to 0..1, enlarged to the picture and added up.
    """  # noqa: D205
    total = _scaled(np.abs(x * G)).sum(axis=0)
    for bias, gradient in zip(biases, gradients, strict=True):
        layer = _scaled(np.abs(_spread(bias) * gradient)).sum(axis=0)  # enlarging is linear, so adding may come first
        rows, columns = (_half_pixel(cells, size) for cells, size in zip(layer.shape, x.shape[1:], strict=True))
        total = total + rows @ layer @ columns.T
    return positive(total)


def positive(values: Floats) -> Floats:
    """`ReLU(values)`."""
    return np.asarray(np.maximum(values, 0), np.float32)


def _spread(weights: Floats) -> Floats:
    return weights[:, None, None]


def _scaled(maps: Floats) -> Floats:
    shifted = maps - maps.min(axis=(1, 2), keepdims=True)
    return np.asarray(shifted / (np.float32(1e-7) + shifted.max(axis=(1, 2), keepdims=True)), np.float32)


def _aligned(cells: int, size: int) -> Floats:
    """Bilinear enlarging of an axis as a matrix f32[size, cells], first and last centres on each other."""
    return _interpolation(cells, np.arange(size) * ((cells - 1) / (size - 1) if size > 1 else 0.0))


def _half_pixel(cells: int, size: int) -> Floats:
    """Bilinear resizing of an axis as a matrix f32[size, cells], edges on each other."""
    return _interpolation(cells, np.clip((np.arange(size) + 0.5) * (cells / size) - 0.5, 0, cells - 1))


def _interpolation(cells: int, places: NDArray[np.floating]) -> Floats:
    lower = np.minimum(places.astype(np.intp), max(cells - 2, 0))
    weight = (places - lower).astype(np.float32)
    matrix = np.zeros((len(places), cells), np.float32)
    index = np.arange(len(places))
    matrix[index, lower] = 1 - weight
    if cells > 1:
        matrix[index, lower + 1] += weight
    return matrix
