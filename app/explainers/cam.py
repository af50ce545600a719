"""Class activation maps: formulas on arrays, one function a method.

Letters as everywhere in the documents: A activations f32[c, u, v] of a layer; G f32[c, u, v] the gradient of the target's score
with respect to A; c channels, (u, v) places. A map is f32[u, v], not normalised, negative parts cut off: evidence for the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def grad_cam(A: Floats, G: Floats) -> Floats:
    """Grad-CAM: `ReLU(sum_c mean_uv(G_c) A_c)`, Selvaraju et al. 2017 (arXiv:1610.02391), equations 1 and 2."""
    return _positive(np.tensordot(G.mean(axis=(1, 2)), A, axes=1))


def hires_cam(A: Floats, G: Floats) -> Floats:
    """HiResCAM: `ReLU(sum_c G_c A_c)`, place by place, Draelos and Carin 2020 (arXiv:2011.08891), equation 3."""
    return _positive(np.einsum("cuv,cuv->uv", G, A))


def layer_cam(A: Floats, G: Floats) -> Floats:
    """LayerCAM: `ReLU(sum_c ReLU(G_c) A_c)`, Jiang et al. 2021 (doi:10.1109/TIP.2021.3089943), equations 6 to 8."""
    return _positive(np.einsum("cuv,cuv->uv", np.maximum(G, 0), A))


def _positive(values: Floats) -> Floats:
    return np.maximum(values, np.float32(0)).astype(np.float32, copy=False)
