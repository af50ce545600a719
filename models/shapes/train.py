"""Trains the demo model `shapes` and exports it to model.onnx: a small residual CNN that names the shapes in a picture.

    python -m models.shapes.train                about five minutes on two cores; needs the extra `train`

The network ends in global average pooling and one linear layer, with Sigmoid behind it since a picture may hold two
classes. Beside the usual loss, the class evidence at each place (`localisation_loss`) is held against the masks, so that
*where the model looks* is known, and a heatmap of it can be right or wrong. BatchNorm stays in the exported graph, as
frameworks other than PyTorch export it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from models.export import export
from models.shapes.generate import CLASSES, SIZE, Picture, pictures
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
MEAN, STD = 0.5, 0.25


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, channels, h, w] of features [n, channels_in, ., .]."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ShapesNet(nn.Module):
    """Picture [n, 3, 96, 96] to logits [n, 6]; the last feature map is [n, 32, 24, 24]."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(Residual(16, channels, stride=2), *(Residual(channels, channels) for _ in range(3)))
        self.head = nn.Linear(channels, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, [n, channels, 24, 24]."""
        features: Tensor = self.body(self.stem(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 6]."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def as_tensors(samples: list[Picture]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [n, 3, 96, 96], presence [n, 6], and the share of each 4x4 cell under each class [n, 6, 24, 24]."""
    x = torch.from_numpy(np.stack([sample.pixels for sample in samples])).permute(0, 3, 1, 2).float()
    masks = torch.zeros(len(samples), len(CLASSES), SIZE, SIZE)
    for index, sample in enumerate(samples):
        for shape in sample.shapes:
            masks[index, CLASSES.index(shape.label)] = torch.from_numpy(shape.mask).float()
    return (x / 255 - MEAN) / STD, masks.amax((2, 3)), functional.avg_pool2d(masks, 4)


def localisation_loss(evidence: Tensor, cells: Tensor) -> Tensor:
    """Cross entropy between `evidence` [n, 6, 24, 24] and the cells that a class covers, both sides weighing the same."""
    losses = functional.binary_cross_entropy_with_logits(evidence, cells, reduction="none")
    inside = (losses * cells).sum() / cells.sum()
    outside = (losses * (1 - cells)).sum() / (1 - cells).sum()
    return inside + outside


def train(seed: int, steps: int, batch: int, weight: float) -> ShapesNet:
    """Trains on pictures that are drawn afresh for every step."""
    torch.manual_seed(seed)
    net = ShapesNet()
    scale, offset = (
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.full((1,), -2.0)),
    )  # of the evidence, for training only
    optimiser = torch.optim.AdamW([*net.parameters(), scale, offset], lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    stream = pictures(steps * batch, seed=seed + 1)
    for step in range(steps):
        x, present, cells = as_tensors([next(stream) for _ in range(batch)])
        features = net.features(x)
        loss = functional.binary_cross_entropy_with_logits(net.head(features.mean((2, 3))), present)
        if weight:
            evidence = functional.conv2d(features, net.head.weight[:, :, None, None])
            loss = loss + weight * localisation_loss(evidence * scale.exp() + offset, cells)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {loss.item():.4f}", flush=True)
    return net.eval()


def localisation(net: ShapesNet, samples: list[Picture]) -> tuple[float, float, float]:
    """Shares: pictures named rightly; Grad-CAM peaks in their mask; two-shape pictures with both peaks in theirs.

    With average pooling and one linear layer the gradient is weight / (u * v), so Grad-CAM is the class activation map.
    """
    named, hits, pairs = [], [], []
    for sample in samples:
        x, present, _ = as_tensors([sample])
        with torch.no_grad():
            features = net.features(x)
            named.append(bool(((net(x) > 0) == (present > 0)).all()))
            maps = torch.einsum("kc,cuv->kuv", net.head.weight, features[0]).clamp(min=0)
            upright = functional.interpolate(maps[None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0]
        inside = []
        for shape in sample.shapes:
            peak = int(upright[CLASSES.index(shape.label)].argmax())
            inside.append(bool(shape.mask.reshape(-1)[peak]))
        hits.extend(inside)
        if len(inside) == 2:
            pairs.append(all(inside))
    return float(np.mean(named)), float(np.mean(hits)), float(np.mean(pairs))


def write_samples(folder: Path) -> None:
    """Six pictures to try: one with each shape, and every second one with two."""
    folder.mkdir(exist_ok=True)
    wanted = [["heart"], ["circle", "star"], ["triangle"], ["cross", "square"], ["star"], ["heart", "triangle"]]
    for sample in pictures(10_000, seed=2024):
        names = sorted(shape.label for shape in sample.shapes)
        if names in wanted:
            wanted.remove(names)
            quality = {"quality": 95, "subsampling": 0}
            suffix, options = ("jpg", quality) if len(wanted) == 3 else ("png", {"optimize": True})
            Image.fromarray(sample.pixels).save(folder / f"{'-and-'.join(names)}.{suffix}", **options)
        if not wanted:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--localisation-weight", type=float, default=0.25)
    parser.add_argument("--out", type=Path, default=HERE / "model.onnx")
    arguments = parser.parse_args()
    net = train(arguments.seed, arguments.steps, arguments.batch, arguments.localisation_weight)
    named, hits, pairs = localisation(net, list(pictures(500, seed=10_000)))
    print(f"500 fresh pictures: named rightly {named:.1%}, peaks in their mask {hits:.1%}, both of a pair {pairs:.1%}")
    export(
        nn.Sequential(net, nn.Sigmoid()).eval(), torch.zeros(2, 3, SIZE, SIZE), arguments.out, output="probabilities"
    )
    write_samples(HERE / "samples")


if __name__ == "__main__":
    main()
