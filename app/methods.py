"""The methods: one literal table that routes, OpenAPI, documents and workers read. Facts only, no code.

A method is added with one function in `app.explainers`, one row here, and one test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.cards import Kind
from app.options import LayerOptions, Options

Needs = Literal["layer-gradient", "activations", "input-gradient", "forward", "predictions"]


@dataclass(frozen=True)
class Method:
    """One way to explain.

    Attributes:
        name: as in the URL.
        kind: which models it fits.
        title: for people.
        summary: one honest sentence: what the answer shows.
        formula: in the letters of the documents (A activations, G gradient of the score, c channels, u x v layer).
        paper: where it was published.
        needs: what it asks of the model; `layer-gradient` falls back to finite differences where a rule is missing
            if `channel_means` holds, since then the channel means of the gradient are all it uses.
        options: what a caller may set.
    """

    name: str
    kind: Kind
    title: str
    summary: str
    formula: str
    paper: str
    needs: Needs
    options: type[Options]
    channel_means: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "gradcam",
            "image",
            "Grad-CAM",
            "Where the evidence for a class lies: activations weighted by the mean gradient of their channel.",
            "ReLU(sum_c mean_uv(G_c) * A_c)",
            "Selvaraju et al. 2017, arXiv:1610.02391",
            "layer-gradient",
            LayerOptions,
            channel_means=True,
        ),
        Method(
            "hirescam",
            "image",
            "HiResCAM",
            "Only places that provably raised the score: gradient times activation, place by place.",
            "ReLU(sum_c G_c * A_c)",
            "Draelos and Carin 2020, arXiv:2011.08891",
            "layer-gradient",
            LayerOptions,
        ),
        Method(
            "layercam",
            "image",
            "LayerCAM",
            "Finer maps, usable in early layers: activations weighted by the positive gradient at each place.",
            "ReLU(sum_c ReLU(G_c) * A_c)",
            "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
            "layer-gradient",
            LayerOptions,
        ),
    )
}
