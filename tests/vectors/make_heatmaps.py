"""Writes heatmaps.npz: a small network, one picture, and what pytorch-grad-cam and Captum make of them.

    python make_heatmaps.py

Made with torch 2.13.0, grad-cam 1.5.7 and captum 0.9.0 on a CPU. The tests need none of them, only the file.

What is in it: `model` the network as ONNX bytes, `x` the picture, `target`, `A` and `G` of the layer `relu2`, `cam/METHOD` and
`cam/METHOD/eigen` (before the ReLU, so that the sign of a principal component can be told apart), `captum/METHOD`, and
`A2`, `G2`, `cam2/METHOD` for arrays with more places than channels.
"""

import contextlib
import io
import pathlib
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):  # what torchvision looks up when it is imported beside a CPU build of another source
    with contextlib.suppress(RuntimeError):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import pytorch_grad_cam as peer  # noqa: E402
from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

METHODS = {
    "gradcam": peer.GradCAM,
    "hirescam": peer.HiResCAM,
    "gradcam-elementwise": peer.GradCAMElementWise,
    "gradcam-plusplus": peer.GradCAMPlusPlus,
    "xgradcam": peer.XGradCAM,
    "layercam": peer.LayerCAM,
    "eigencam": peer.EigenCAM,
    "eigengradcam": peer.EigenGradCAM,
    "scorecam": peer.ScoreCAM,
    "ablationcam": peer.AblationCAM,
}
FORMULAS = [name for name in METHODS if name not in {"scorecam", "ablationcam"}]


class Network(torch.nn.Module):
    """Two convolutions with batch normalisation, one with a bias; mean of the places; a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 12, 5, stride=2, padding=2)
        self.relu1 = torch.nn.ReLU()
        self.conv2 = torch.nn.Conv2d(12, 96, 3, stride=2, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(96)
        self.relu2 = torch.nn.ReLU()
        self.conv3 = torch.nn.Conv2d(96, 16, 3)
        self.relu3 = torch.nn.ReLU()
        self.linear = torch.nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu2(self.bn2(self.conv2(self.relu1(self.conv1(x)))))
        return self.linear(self.relu3(self.conv3(x)).mean((2, 3)))


class Last(torch.nn.Module):
    """A stand-in whose one layer has given activations, so that gradients can be given, too."""

    def __init__(self, gradient: torch.Tensor) -> None:
        super().__init__()
        self.layer = torch.nn.Identity()
        self.gradient = torch.nn.Parameter(gradient)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layer(x) * self.gradient).sum((1, 2, 3))[:, None]


def raw_map(
    method: type, model: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor, target: int, *, eigen: bool
) -> np.ndarray:
    """What the method computes before ReLU, scaling and resizing."""
    cam = method(model, [layer])
    kept, compute = [], cam.get_cam_image
    cam.get_cam_image = lambda *args, **kwargs: kept.append(compute(*args, **kwargs)) or kept[-1]
    cam(x, [ClassifierOutputTarget(target)], eigen_smooth=eigen)
    found = kept[0]
    return np.asarray(found.detach() if torch.is_tensor(found) else found)[0]


def full_grad(model: torch.nn.Module, x: torch.Tensor, target: int) -> np.ndarray:
    cam = peer.FullGrad(model, [])
    kept, compute = [], cam.compute_cam_per_layer
    cam.compute_cam_per_layer = lambda *args, **kwargs: kept.append(compute(*args, **kwargs)) or kept[-1]
    cam(x, [ClassifierOutputTarget(target)])
    return kept[0][0].sum(axis=0)


def main() -> None:
    torch.manual_seed(3)
    random = np.random.default_rng(3)
    model = Network()
    model.bn2.running_mean.normal_(0, 0.2)
    model.bn2.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(model.bn2.weight, 1, 0.2)
    torch.nn.init.normal_(model.bn2.bias, 0, 0.2)
    torch.nn.init.normal_(model.linear.weight, 0, 1)
    model.eval()
    x = torch.from_numpy(random.standard_normal((1, 3, 28, 36)).astype(np.float32))
    target = int(model(x)[0].argmax())
    stream = io.BytesIO()
    torch.onnx.export(
        model,
        (x,),
        stream,
        input_names=["input"],
        output_names=["logits"],
        dynamo=False,
        opset_version=17,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
    )
    data: dict[str, np.ndarray] = {
        "model": np.frombuffer(stream.getvalue(), np.uint8),
        "x": x.numpy(),
        "target": np.array(target),
    }
    kept = {}
    model.relu2.register_forward_hook(lambda _m, _i, y: kept.update(a=y))
    score = model(x)[0, target]
    data["G"] = torch.autograd.grad(score, kept["a"])[0][0].numpy()
    data["A"] = kept["a"].detach()[0].numpy()
    for name, method in METHODS.items():
        data[f"cam/{name}"] = raw_map(method, model, model.relu2, x, target, eigen=False)
        if name in FORMULAS and not name.startswith("eigen"):
            data[f"cam/{name}/eigen"] = raw_map(method, model, model.relu2, x, target, eigen=True)
    data["cam/fullgrad"] = full_grad(model, x, target)
    data["A2"] = np.maximum(random.standard_normal((6, 9, 7)), 0).astype(np.float32)
    data["G2"] = random.standard_normal((6, 9, 7)).astype(np.float32)
    wide = Last(torch.from_numpy(data["G2"]))
    for name in FORMULAS:
        inputs = torch.from_numpy(data["A2"])[None].requires_grad_(True)
        data[f"cam2/{name}"] = raw_map(METHODS[name], wide, wide.layer, inputs, 0, eigen=False)
    inputs = x.clone().requires_grad_(True)
    data["captum/saliency"] = Saliency(model).attribute(inputs, target=target)[0].amax(0).detach().numpy()
    data["captum/input-x-gradient"] = InputXGradient(model).attribute(inputs, target=target)[0].sum(0).detach().numpy()
    integrated = IntegratedGradients(model).attribute(inputs, target=target, n_steps=32, method="gausslegendre")
    data["captum/integrated-gradients"] = integrated[0].sum(0).detach().float().numpy()
    covered = Occlusion(model).attribute(x, (3, 6, 6), strides=(3, 3, 3), target=target, baselines=0)
    data["captum/occlusion"] = covered[0, 0].detach().float().numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("heatmaps.npz"), **data)


if __name__ == "__main__":
    main()
