"""Trains the demo model `digits` on scikit-learn's handwritten digits and exports it to model.onnx.

    python -m models.digits.train                about a minute on one core; needs the extra `train`

The pictures of `load_digits` are 8x8; they are enlarged to 48x48, which gives heatmaps of 12x12 places. Max pooling
and two dense layers make this network unlike `shapes`: here Grad-CAM is no closed formula.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from models.export import export
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
SIZE = 48
MEAN, STD = 0.3, 0.4
EPOCHS, BATCH, SEED = 30, 64, 0


def network() -> nn.Module:
    """Picture [n, 1, 48, 48] to logits [n, 10]; the last feature map is [n, 32, 12, 12]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 12 * 12, 16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(16, 10),
    )


def enlarge(images: np.ndarray) -> np.ndarray:
    """Digits float[n, 8, 8] in 0..16 to grey pictures uint8[n, 48, 48], bilinear."""
    pictures = [
        Image.fromarray(image.astype(np.float32) * (255 / 16)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        for image in images
    ]
    return np.stack([np.asarray(picture).round().astype(np.uint8) for picture in pictures])


def as_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures uint8[n, 48, 48] to the network's input float32[n, 1, 48, 48]."""
    return (torch.from_numpy(pictures)[:, None].float() / 255 - MEAN) / STD


def augmented(x: Tensor) -> Tensor:
    """Every picture turned, scaled and moved a little, so that other people's digits are read too."""
    n = len(x)
    angle, scale = torch.empty(n).uniform_(-0.2, 0.2), torch.empty(n).uniform_(0.85, 1.15)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    moves = torch.empty(2, n).uniform_(-0.15, 0.15)
    theta = torch.stack([torch.stack([cosine, -sine, moves[0]], 1), torch.stack([sine, cosine, moves[1]], 1)], 1)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    paper = (0 - MEAN) / STD
    return functional.grid_sample(x - paper, grid, align_corners=False) + paper


def train(x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(SEED)
    net = network()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=EPOCHS * (len(x) // BATCH))
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            loss = functional.cross_entropy(net(augmented(x[rows])), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1:2}  loss {loss.item():.4f}", flush=True)
    return net.eval()


def main() -> None:
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        enlarge(digits.images), digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    net = train(as_tensor(x_train), torch.from_numpy(y_train))
    with torch.no_grad():
        predicted = net(as_tensor(x_test)).argmax(1).numpy()
    print(f"{len(y_test)} held-out digits: {np.mean(predicted == y_test):.1%} read rightly")
    export(net, torch.zeros(2, 1, SIZE, SIZE), HERE / "model.onnx", output="logits")
    samples = HERE / "samples"
    samples.mkdir(exist_ok=True)
    for digit in (0, 3, 5, 7, 8):
        picture = x_test[np.flatnonzero((y_test == digit) & (predicted == digit))[0]]
        Image.fromarray(picture).save(samples / f"{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
