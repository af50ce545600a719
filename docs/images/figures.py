"""The pictures of the documents, made by the service's own code from a sample of the `shapes` model.

    .venv/bin/python docs/images/figures.py

Every heatmap is what a caller gets; this script only enlarges pictures, sets them side by side, and writes their names.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from onnxplain.cli.work import find, run
from onnxplain.facts.methods import METHODS
from onnxplain.facts.tasks import ExplainTask, PictureExplanation
from onnxplain.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-and-triangle.png"
SIDE, LINE, GAP = 192, 30, 10

Panel = tuple[str, Image.Image]


def explained(method: str, target: str) -> Image.Image:
    """The overlay that a caller of `method` gets for one class of the sample."""
    settings = Settings(models=ROOT / "models")
    task = ExplainTask(find("shapes", settings), method, "image/png", SAMPLE.read_bytes(), {"target": [target]})
    (answer,) = run([task], settings)
    if not isinstance(answer, PictureExplanation):
        raise answer
    return Image.open(io.BytesIO(answer.explanations[0].overlay or b""))


def sheet(panels: list[Panel], columns: int) -> Image.Image:
    """Panels in rows, each under its name."""
    rows = -(-len(panels) // columns)
    page = Image.new("RGB", (columns * (SIDE + GAP) + GAP, rows * (SIDE + LINE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for number, (name, picture) in enumerate(panels):
        x = GAP + number % columns * (SIDE + GAP)
        y = GAP + number // columns * (SIDE + LINE + GAP)
        pen.text((x + SIDE / 2, y + LINE / 2), name, "black", font, anchor="mm")
        page.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + LINE))
    return page


def save(page: Image.Image, name: str) -> None:
    """Write a page as a PNG with a palette, small enough for a repository."""
    page.quantize(256, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def main() -> None:
    """Write both figures."""
    picture = Image.open(SAMPLE)
    classes = [(f"Grad-CAM for “{target}”", explained("gradcam", target)) for target in ("heart", "triangle")]
    save(sheet([("the picture", picture), *classes], 3), "shapes-heatmap.png")
    methods = [(name, explained(name, "heart")) for name, method in METHODS.items() if method.kind == "image"]
    save(sheet([("the picture", picture), *methods], 5), "methods.png")


if __name__ == "__main__":
    main()
