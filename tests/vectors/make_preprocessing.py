"""Writes preprocessing.npz: model inputs as torchvision's own transforms make them of Pillow pictures.

python tests/vectors/make_preprocessing.py

Made with torch 2.13.0 and torchvision 0.28.0 on a CPU. The tests need neither, only the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):  # what torchvision looks up when it is imported beside a CPU build of another source
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import transforms  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((40, 60), (61, 37), (24, 24), (150, 149))  # height, width
RECIPES = {"crop": (20, 23), "stretch": (18, 25)}  # crop: size, resize_to; stretch: height, width


def main() -> None:
    rng = np.random.default_rng(0)
    vectors = {}
    for height, width in SIZES:
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        vectors[f"picture_{height}_{width}"] = picture
        for fit, (first, second) in RECIPES.items():
            resized = (
                [transforms.Resize(second), transforms.CenterCrop(first)]
                if fit == "crop"
                else [transforms.Resize((first, second))]
            )
            pipeline = transforms.Compose([*resized, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
            vectors[f"{fit}_{height}_{width}"] = pipeline(Image.fromarray(picture)).numpy()[None]
    np.savez_compressed(Path(__file__).with_name("preprocessing.npz"), **vectors)


if __name__ == "__main__":
    main()
