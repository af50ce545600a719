"""The methods: one literal table that routes, OpenAPI, documents and workers read. Facts only, no code.

A method is one row here, one function in the table of its kind in `onnxplain.explain`, and one test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxplain.facts import pricing
from onnxplain.facts.cards import Kind
from onnxplain.facts.options import (
    ActivationOptions,
    IntegratedGradientsOptions,
    LayerOptions,
    OcclusionOptions,
    Options,
    PermutationOptions,
    PictureOptions,
    RiseOptions,
    SmoothGradOptions,
)

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
        price: what it costs in forward runs of the model; None where that hangs on the table that comes.
        tails_a_channel: how often it runs what lies behind the layer for each of its channels; such runs are timed.
        zero: whether a value of zero means no evidence. Sums of positive numbers have no such place: of them only the
            differences are shown, from the least value up.
    """

    name: str
    kind: Kind
    title: str
    summary: str
    formula: str
    paper: str
    needs: Needs
    options: type[Options]
    price: pricing.Price | None
    tails_a_channel: int = 0
    channel_means: bool = False
    zero: bool = True


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
            pricing.at_layer,
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
            pricing.at_layer,
        ),
        Method(
            "gradcam-elementwise",
            "image",
            "Element-wise Grad-CAM",
            "HiResCAM without the channels that speak against the class at a place.",
            "sum_c ReLU(G_c * A_c)",
            "pytorch-grad-cam, GradCAMElementWise",
            "layer-gradient",
            LayerOptions,
            pricing.at_layer,
        ),
        Method(
            "gradcam-plusplus",
            "image",
            "Grad-CAM++",
            "Grad-CAM that does not lose small or repeated objects: only positive gradients count, weighted place by place.",
            "ReLU(sum_c sum_uv(a_c * ReLU(G_c)) * A_c), a_c = G_c^2 / (2 G_c^2 + sum_uv(A_c) G_c^3 + 1e-6)",
            "Chattopadhay et al. 2018, arXiv:1710.11063",
            "layer-gradient",
            LayerOptions,
            pricing.at_layer,
        ),
        Method(
            "xgradcam",
            "image",
            "XGrad-CAM",
            "Grad-CAM whose weights add up to the score: the gradient is averaged where the channel is active.",
            "ReLU(sum_c sum_uv(G_c * A_c) / sum_uv(A_c) * A_c)",
            "Fu et al. 2020, arXiv:2008.02312",
            "layer-gradient",
            LayerOptions,
            pricing.at_layer,
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
            pricing.at_layer,
        ),
        Method(
            "eigencam",
            "image",
            "Eigen-CAM",
            "Where the layer's strongest common pattern lies; needs no gradient and knows no class.",
            "ReLU(first principal component of A)",
            "Muhammad and Yeasin 2020, arXiv:2008.00299",
            "activations",
            ActivationOptions,
            pricing.at_layer,
        ),
        Method(
            "eigengradcam",
            "image",
            "Eigen-Grad-CAM",
            "The strongest common pattern of gradient times activation: cleaner than HiResCAM, and for a class.",
            "ReLU(first principal component of G * A)",
            "pytorch-grad-cam, EigenGradCAM",
            "layer-gradient",
            ActivationOptions,
            pricing.at_layer,
        ),
        Method(
            "scorecam",
            "image",
            "Score-CAM",
            "Which channels keep the class alive when the picture is masked with them; no gradient, one run a channel.",
            "ReLU(sum_c softmax_c(Y(x * H_c)) * A_c), H_c = A_c enlarged and scaled to 0..1",
            "Wang et al. 2020, arXiv:1910.01279",
            "activations",
            LayerOptions,
            pricing.masked_channels,
        ),
        Method(
            "ablationcam",
            "image",
            "Ablation-CAM",
            "How much the score falls when a channel is switched off; no gradient, one run of the last layers a channel.",
            "ReLU(sum_c (Y - Y_c) / |Y| * A_c)",
            "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
            "activations",
            LayerOptions,
            pricing.ablated_channels,
            tails_a_channel=1,
        ),
        Method(
            "fullgrad",
            "image",
            "FullGrad",
            "Evidence of the input and of every layer's bias together, at the sharpness of the input.",
            "sum_ch |x * G| + sum_layers sum_c |b_c * G_c|, each channel scaled to 0..1",
            "Srinivas and Fleuret 2019, arXiv:1905.00780",
            "input-gradient",
            PictureOptions,
            pricing.bias_gradients,
            zero=False,
        ),
        Method(
            "activation",
            "image",
            "Mean activation",
            "Where the layer responds at all; knows no class.",
            "ReLU(mean_c A_c)",
            "Zhou et al. 2016, arXiv:1512.04150, without the class weights",
            "activations",
            ActivationOptions,
            pricing.at_layer,
        ),
        Method(
            "saliency",
            "image",
            "Saliency",
            "Which pixels the score reacts to most.",
            "max_ch |dY/dx|",
            "Simonyan et al. 2014, arXiv:1312.6034",
            "input-gradient",
            PictureOptions,
            pricing.input_gradient,
        ),
        Method(
            "input-x-gradient",
            "image",
            "Input x gradient",
            "Each pixel's part of the score as far as the model is linear; signed.",
            "sum_ch x * dY/dx",
            "Shrikumar et al. 2016, arXiv:1605.01713",
            "input-gradient",
            PictureOptions,
            pricing.input_gradient,
        ),
        Method(
            "integrated-gradients",
            "image",
            "Integrated gradients",
            "Each pixel's part of the rise from an empty picture to this one; signed, and adds up to it.",
            "sum_ch (x - b) * integral_0^1 dY/dx(b + a (x - b)) da",
            "Sundararajan et al. 2017, arXiv:1703.01365",
            "input-gradient",
            IntegratedGradientsOptions,
            pricing.integral,
        ),
        Method(
            "smoothgrad",
            "image",
            "SmoothGrad",
            "Saliency without its grain: the gradient averaged over noisy copies of the picture.",
            "max_ch |mean_i dY/dx(x + e_i)|",
            "Smilkov et al. 2017, arXiv:1706.03825",
            "input-gradient",
            SmoothGradOptions,
            pricing.noisy_gradients,
        ),
        Method(
            "occlusion",
            "image",
            "Occlusion",
            "How much the score falls when a square of the picture is covered; needs no gradient.",
            "mean over covering squares of Y(x) - Y(x covered)",
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            "forward",
            OcclusionOptions,
            pricing.covered_squares,
        ),
        Method(
            "rise",
            "image",
            "RISE",
            "Which regions keep the class probable under random masks; needs no gradient.",
            "sum_i P(x * M_i) * M_i / (n p)",
            "Petsiuk et al. 2018, arXiv:1806.07421",
            "forward",
            RiseOptions,
            pricing.masks,
            zero=False,
        ),
        Method(
            "permutation-importance",
            "tabular",
            "Permutation importance",
            "How much the model's score falls when a column's values are shuffled among the rows.",
            "score(y, f(X)) - mean_k score(y, f(X with column j permuted by pi_k))",
            "Breiman 2001, doi:10.1023/A:1010933404324",
            "predictions",
            PermutationOptions,
            None,
        ),
    )
}
