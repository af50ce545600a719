"""Class activation maps against hand calculation, and against pytorch-grad-cam on the same arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxplain.explainers.pictures import cam

VECTORS = np.load(Path(__file__).parents[2] / "vectors" / "heatmaps.npz")
FORMULAS = {
    "gradcam": cam.grad_cam,
    "hirescam": cam.hires_cam,
    "gradcam-elementwise": cam.grad_cam_elementwise,
    "gradcam-plusplus": cam.grad_cam_plusplus,
    "xgradcam": cam.x_grad_cam,
    "layercam": cam.layer_cam,
}
A = np.array([[[1, 2], [0, 1]], [[3, 0], [1, 1]]], np.float32)
G = np.array([[[1, -1], [2, 2]], [[-2, 0], [0, 1]]], np.float32)


def test_grad_cam_by_hand() -> None:
    """Channel means of G are 1 and -1/4."""
    assert np.allclose(cam.grad_cam(A, G), [[1 - 0.75, 2], [0, 1 - 0.25]])


def test_hires_cam_by_hand() -> None:
    """G A = [[1, -2], [0, 2]] and [[-6, 0], [0, 1]]."""
    assert np.array_equal(cam.hires_cam(A, G), [[0, 0], [0, 3]])


def test_elementwise_and_layer_cam_by_hand() -> None:
    """Only positive products, and only positive gradients, are added up."""
    assert np.array_equal(cam.grad_cam_elementwise(A, G), [[1, 0], [0, 3]])
    assert np.array_equal(cam.layer_cam(A, G), [[1, 0], [0, 3]])


def test_grad_cam_plusplus_by_hand() -> None:
    """One channel, one place with a gradient: a = g^2 / (2 g^2 + sum(A) g^3), w = a g."""
    a = np.array([[[1, 2], [3, 4]]], np.float32)
    g = np.array([[[0.5, 0], [0, 0]]], np.float32)
    weight = 0.25 / (0.5 + 10 * 0.125 + 1e-6) * 0.5
    assert np.allclose(cam.grad_cam_plusplus(a, g), weight * a[0], rtol=1e-6)


def test_x_grad_cam_by_hand() -> None:
    """Weights are the mean of the gradient where the channel is active: 1/4 and -5/5."""
    assert np.allclose(cam.x_grad_cam(A, G), np.maximum(0.25 * A[0] - A[1], 0), atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_without_gradient_the_map_is_zero_and_not_nan(name: str) -> None:
    """Constant scores explain nothing."""
    for smooth in (cam.summed, cam.first_component):
        assert np.array_equal(FORMULAS[name](A, np.zeros_like(G), smooth), np.zeros((2, 2)))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("arrays", ["", "2"])
def test_formulas_agree_with_pytorch_grad_cam(name: str, arrays: str) -> None:
    """Maximum difference 1e-5 from the same activations and gradients."""
    group = f"cam{arrays}/{name}"
    found = FORMULAS[name](VECTORS[f"A{arrays}"], VECTORS[f"G{arrays}"])
    assert np.abs(found - np.maximum(VECTORS[group], 0)).max() < 1e-5


@pytest.mark.parametrize("name", FORMULAS)
def test_eigen_smoothing_agrees_with_pytorch_grad_cam_up_to_the_sign(name: str) -> None:
    """Theirs leaves the sign of a principal component to chance."""
    peer = VECTORS[f"cam/{name}/eigen"]
    found = FORMULAS[name](VECTORS["A"], VECTORS["G"], cam.first_component)
    assert min(np.abs(found - np.maximum(sign * peer, 0)).max() for sign in (1, -1)) < 1e-5


@pytest.mark.parametrize("arrays", ["", "2"])
def test_eigen_methods_agree_with_pytorch_grad_cam_up_to_the_sign(arrays: str) -> None:
    """With fewer places than channels, and with more."""
    a, g = VECTORS[f"A{arrays}"], VECTORS[f"G{arrays}"]
    for name, found in (("eigencam", cam.eigen_cam(a)), ("eigengradcam", cam.eigen_grad_cam(a, g))):
        peer = VECTORS[f"cam{arrays}/{name}"]
        assert min(np.abs(found - np.maximum(sign * peer, 0)).max() for sign in (1, -1)) < 1e-5


def test_the_first_component_has_the_sign_of_the_evidence() -> None:
    """Turning every contribution round turns the map round; the bright place is where the sum is greatest."""
    contributions = np.zeros((3, 4, 4), np.float32)
    contributions[:, 1, 2] = (5, 3, 4)
    assert np.unravel_index(cam.first_component(contributions).argmax(), (4, 4)) == (1, 2)
    assert cam.first_component(-contributions)[1, 2] == 0


def test_activation_is_the_mean_of_the_channels() -> None:
    """By hand."""
    assert np.array_equal(cam.activation(A), A.mean(axis=0))


def test_ablation_cam_of_a_linear_tail_is_exact() -> None:
    """Y = sum_c w_c mean(A_c): switching channel c off takes w_c mean(A_c) away, whatever the sign of Y."""
    weights = np.array([0.5, 2.0], np.float32)

    def tail(maps: np.ndarray) -> np.ndarray:
        return (maps.mean(axis=(2, 3)) @ weights)[:, None]

    for sign in (1, -1):
        weights = sign * np.array([0.5, 2.0], np.float32)
        score = tail(A[None])[0]
        drops = weights * A.mean(axis=(1, 2)) / abs(score[0])
        (found,) = cam.ablation_cam(A, score, tail, [0], batch=1, report=lambda _: None)
        assert np.allclose(found, np.maximum(np.tensordot(drops, A, axes=1), 0), atol=1e-6)


def test_score_cam_of_a_constant_score_is_the_mean_of_the_channels() -> None:
    """Equal scores give equal weights."""
    x = np.ones((1, 3, 8, 6), np.float32)
    (found,) = cam.score_cam(A, x, lambda pictures: np.zeros((len(pictures), 2)), [1], batch=1, report=lambda _: None)
    assert np.allclose(found, A.mean(axis=0))


def test_where_numbers_overflow_there_is_no_component_and_no_error() -> None:
    """A gradient that is infinite at one place: the map is not finite, and is refused as such where maps are drawn."""
    contributions = np.ones((3, 4, 4), np.float32)
    contributions[1, 2, 2] = np.inf
    assert np.isnan(cam.first_component(contributions)).all()
