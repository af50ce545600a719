"""Whole picture methods, from a model file to a map: against peers on the same network, and against what must hold for any."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest

from onnxplain.explain.picture_maps import Pictured, cost_ms, picture_maps
from onnxplain.explain.picture_methods import Targets
from onnxplain.facts.errors import TooExpensive
from onnxplain.facts.methods import METHODS
from onnxplain.facts.options import LayerOptions, PictureOptions, checked
from onnxplain.model import Cancellation, ImageModel, load

VECTORS = np.load(Path(__file__).parents[1] / "vectors" / "heatmaps.npz")
PICTURE_METHODS = [method.name for method in METHODS.values() if method.kind == "image"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    file = tmp_path_factory.mktemp("peer") / "model.onnx"
    file.write_bytes(VECTORS["model"].tobytes())
    loaded = load(file, name="peer", cancellation=Cancellation())
    assert isinstance(loaded, ImageModel)
    return loaded


def maps(model: ImageModel, method: str, targets: list[int] | None = None, **given: object) -> Pictured:
    options = checked(METHODS[method].options, given)
    assert isinstance(options, PictureOptions)
    chosen = targets or [int(VECTORS["target"])]
    return picture_maps(METHODS[method], model, VECTORS["x"], Targets(tuple(chosen)), options, inf, lambda _: None)


def relu2(model: ImageModel) -> str:
    """The layer that the peer's maps are of."""
    return next(layer.name for layer in model.card.layers if layer.shape == (96, 7, 9) and layer.operator == "Relu")


def test_activations_and_gradient_are_those_of_torch(model: ImageModel) -> None:
    """The layer in the middle of the network, through a convolution."""
    found = model.layer_gradient(VECTORS["x"], relu2(model), [int(VECTORS["target"])])
    assert found.source == "exact"
    assert np.abs(found.activations - VECTORS["A"]).max() < 1e-5
    assert np.abs(found.gradient[0] - VECTORS["G"]).max() < 1e-6


@pytest.mark.parametrize(
    "method", [name for name in PICTURE_METHODS if f"cam/{name}" in VECTORS and "eigen" not in name]
)
def test_maps_agree_with_pytorch_grad_cam(model: ImageModel, method: str) -> None:
    """The same network, picture and class, from the file to the map."""
    given = {"layer": relu2(model)} if issubclass(METHODS[method].options, LayerOptions) else {}
    found = maps(model, method, **given).maps[0]
    peer = np.maximum(VECTORS[f"cam/{method}"], 0)
    assert np.abs(found - peer).max() < 1e-5 * max(1.0, peer.max())


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "integrated-gradients"])
def test_attributions_agree_with_captum(model: ImageModel, method: str) -> None:
    """Saliency, input x gradient, and integrated gradients with as many steps."""
    peer = VECTORS[f"captum/{method}"]
    assert np.abs(maps(model, method).maps[0] - peer).max() < 1e-5 * np.abs(peer).max() + 1e-6


def test_occlusion_agrees_with_captum(model: ImageModel) -> None:
    """Where a square lies wholly on the picture; at the far edges Captum cuts the last one off."""
    found = maps(model, "occlusion", window=6, stride=3).maps[0]
    peer = VECTORS["captum/occlusion"]
    assert np.abs(found - peer)[:21, :30].max() < 1e-5


def test_integrated_gradients_add_up_to_the_rise_of_the_score(model: ImageModel) -> None:
    """Completeness, from the mean picture and from the black one (the same here, where nothing is normalised)."""
    x, target = VECTORS["x"], int(VECTORS["target"])
    rise = model.predict(x)[0, target] - model.predict(np.zeros_like(x))[0, target]
    for baseline in ("mean", "black"):
        found = maps(model, "integrated-gradients", steps=256, baseline=baseline).maps[0]
        assert found.sum() == pytest.approx(rise, rel=1e-2)


@pytest.mark.parametrize("method", PICTURE_METHODS)
def test_several_classes_at_once_get_the_map_that_each_gets_alone(model: ImageModel, method: str) -> None:
    """Stacking classes in one run changes nothing."""
    given = {"samples": 20} if method in {"rise", "smoothgrad"} else {}
    together = maps(model, method, [0, 3], **given).maps
    for target, values in zip([0, 3], together, strict=True):
        alone = maps(model, method, [target], **given).maps[0]
        assert np.allclose(values, alone, rtol=1e-4, atol=1e-6 * max(1.0, float(np.abs(alone).max())))


@pytest.mark.parametrize("method", ["rise", "smoothgrad"])
def test_random_methods_repeat_with_their_seed(model: ImageModel, method: str) -> None:
    """The same seed gives the same map, another one another."""
    first, again, other = (maps(model, method, samples=10, seed=seed).maps[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_augmented_maps_of_a_symmetric_picture_are_symmetric(tmp_path: Path) -> None:
    """Mirror image and picture are the same, so the mean of their maps is its own mirror image."""
    loaded = load(Path(__file__).parents[2] / "models" / "shapes", name="shapes", cancellation=Cancellation())
    assert isinstance(loaded, ImageModel)
    half = np.random.default_rng(0).standard_normal((1, 3, 96, 48)).astype(np.float32)
    x = np.concatenate([half, half[..., ::-1]], axis=3)
    options = LayerOptions(aug_smooth=True)
    found = picture_maps(METHODS["gradcam"], loaded, x, Targets((1,)), options, inf, lambda _: None).maps[0]
    assert np.allclose(found, found[:, ::-1], atol=1e-4 * max(float(found.max()), 1e-6))


def test_what_is_too_dear_is_refused_with_its_price(model: ImageModel) -> None:
    """Before anything runs."""
    options = checked(METHODS["rise"].options, {"samples": 20_000})
    assert isinstance(options, PictureOptions)
    limit = cost_ms(METHODS["rise"], options, model.card) / 2
    with pytest.raises(TooExpensive, match="would take about"):
        picture_maps(METHODS["rise"], model, VECTORS["x"], Targets((0,)), options, limit, lambda _: None)


def test_what_turns_out_too_dear_behind_its_layer_is_refused(model: ImageModel) -> None:
    """A run behind an early layer costs more than the estimate for the default layer says."""
    options = checked(METHODS["ablationcam"].options, {"layer": relu2(model)})
    assert isinstance(options, PictureOptions)
    limit = cost_ms(METHODS["ablationcam"], options, model.card)
    with pytest.raises(TooExpensive, match="later layer"):
        picture_maps(METHODS["ablationcam"], model, VECTORS["x"], Targets((0,)), options, limit, lambda _: None)


def test_progress_goes_from_nothing_to_all(model: ImageModel) -> None:
    """Over all targets together, never backwards."""
    heard: list[float] = []
    options = checked(METHODS["smoothgrad"].options, {"samples": 80})
    assert isinstance(options, PictureOptions)
    picture_maps(METHODS["smoothgrad"], model, VECTORS["x"], Targets((0, 1)), options, inf, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1
