"""Pictures whose explanation is known: coloured shapes on textured backgrounds, each with the mask of where it lies.

    python -m models.shapes.generate OUT_DIR [--count N] [--seed N]     writes pictures, named by what they show

Colour, size, place, angle and background are drawn independently of the class, so that nothing but a shape's outline
tells its class, and a heatmap for a class is right exactly when it lies on that class's mask.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96
CLASSES = ("circle", "square", "triangle", "star", "cross", "heart")
RADIUS = (13.0, 20.0)  # of the circle around a shape, pixels
SUPERSAMPLING = 4

Rng = np.random.Generator


@dataclass(frozen=True)
class Shape:
    """One shape of a picture: its class, and `mask` bool[96, 96], true where it covers at least half of a pixel."""

    label: str
    mask: np.ndarray


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8[96, 96, 3] (RGB), and the one or two shapes in it, of different classes."""

    pixels: np.ndarray
    shapes: tuple[Shape, ...]


def pictures(count: int, seed: int, shapes: int | None = None) -> Iterator[Picture]:
    """Yields `count` pictures that depend on `seed` alone; with `shapes` given, all of them hold that many."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield picture(rng, shapes or int(rng.integers(1, 3)))


def picture(rng: Rng, count: int) -> Picture:
    """One picture with `count` shapes (1 or 2) that do not touch."""
    pixels = background(rng)
    mean_colour = pixels.mean((0, 1))
    labels = rng.choice(len(CLASSES), size=count, replace=False)
    shapes = []
    for label, (x, y, radius) in zip(labels, places(rng, count), strict=True):
        name = CLASSES[label]
        coverage = draw(name, x, y, radius, float(rng.uniform(-math.pi, math.pi)))
        shade = texture(rng, amplitude=float(rng.uniform(0, 18)))
        fill = contrasting_colour(rng, mean_colour) + shade
        pixels = pixels + coverage[..., None] * (fill - pixels)
        shapes.append(Shape(name, coverage >= 0.5))
    noise = rng.normal(0, rng.uniform(2, 9), pixels.shape)
    return Picture(np.clip(pixels + noise, 0, 255).round().astype(np.uint8), tuple(shapes))


def places(rng: Rng, count: int) -> list[tuple[float, float, float]]:
    """Centres and radii of `count` circles that lie inside the picture and keep 3 pixels apart."""
    while True:
        circles = []
        for _ in range(count):
            radius = float(rng.uniform(*RADIUS))
            x, y = rng.uniform(radius + 2, SIZE - radius - 2, 2)
            circles.append((float(x), float(y), radius))
        if count == 1 or math.dist(circles[0][:2], circles[1][:2]) > circles[0][2] + circles[1][2] + 3:
            return circles


def draw(name: str, x: float, y: float, radius: float, angle: float) -> np.ndarray:
    """The share of each pixel, float64[96, 96] in 0..1, that the shape covers."""
    outline = OUTLINES[name]
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (outline @ rotation.T * radius + (x, y)) * SUPERSAMPLING
    canvas = Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float64) / 255


def regular(corners: int) -> np.ndarray:
    """The corners of a regular polygon on the unit circle, [corners, 2]."""
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def star() -> np.ndarray:
    """A five-pointed star, wide enough at the waist that its middle is inside at every size."""
    return regular(10) * np.where(np.arange(10) % 2, 0.48, 1.0)[:, None]


def cross(arm: float = 0.34) -> np.ndarray:
    """A plus sign whose arms are `2 * arm` wide."""
    tip = math.sqrt(1 - arm**2)
    quarter = np.array([[tip, -arm], [tip, arm], [arm, arm]])
    turns = [
        quarter @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        for a in np.arange(4) * math.pi / 2
    ]
    return np.concatenate(turns)


def heart() -> np.ndarray:
    """The usual heart curve, scaled into the unit circle."""
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.5


OUTLINES = {
    "circle": regular(60) * 0.88,
    "square": regular(4),
    "triangle": regular(3),
    "star": star(),
    "cross": cross(),
    "heart": heart(),
}


def background(rng: Rng) -> np.ndarray:
    """A textured background, float64[96, 96, 3]: gratings, clouds and strokes between two colours."""
    first, second = rng.uniform(20, 235, (2, 3))
    second = first + (second - first) * rng.uniform(0.1, 0.45)
    weight = 0.5 + 0.5 * np.tanh(texture(rng, amplitude=1.2))
    pixels = first + weight * (second - first)
    strokes = Image.new("L", (SIZE, SIZE))
    pen = ImageDraw.Draw(strokes)
    for _ in range(int(rng.integers(0, 5))):
        pen.line(
            [tuple(point) for point in rng.uniform(0, SIZE, (2, 2)).tolist()], fill=int(rng.integers(80, 255)), width=1
        )
    coverage = np.asarray(strokes, np.float64)[..., None] / 255
    return pixels + coverage * (rng.uniform(20, 235, 3) - pixels)


def texture(rng: Rng, amplitude: float) -> np.ndarray:
    """A random field float64[96, 96, 1] of about unit variance times `amplitude`: a grating plus clouds."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(2, 16), rng.uniform(0, 2 * math.pi)
    grating = np.sin(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    cells = int(rng.integers(3, 16))
    clouds = np.asarray(
        Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32)).resize(
            (SIZE, SIZE), Image.Resampling.BICUBIC
        )
    )
    mix = rng.uniform(0, 1)
    return amplitude * (mix * grating + (1 - mix) * clouds)[..., None]


def contrasting_colour(rng: Rng, other: np.ndarray) -> np.ndarray:
    """A colour [3] at least 90 levels away from `other`, whatever its hue."""
    while True:
        colour = rng.uniform(10, 245, 3)
        if np.linalg.norm(colour - other) > 90:
            return colour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index, sample in enumerate(pictures(arguments.count, arguments.seed)):
        names = "-and-".join(shape.label for shape in sample.shapes)
        Image.fromarray(sample.pixels).save(arguments.out / f"{index:03}-{names}.png", optimize=True)


if __name__ == "__main__":
    main()
