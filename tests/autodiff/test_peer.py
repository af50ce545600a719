"""Our gradients beside those of onnx-ad, which differentiates the same graphs in its own way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ad
import pytest
from tests.autodiff.test_rules import CASES, Case, build, run

from onnxplain.autodiff import differentiate

REFUSED = (NotImplementedError, ValueError, KeyError, onnx_ad.UnsupportedOperator)


def known_to_differ(case: Case) -> bool:
    """Explicit pads unlike on both sides, which onnx-ad hands on as an output shape; cut borders; zeros in a product; ties."""
    pads = case.attributes.get("pads", [])
    unlike = pads[: len(pads) // 2] != pads[len(pads) // 2 :]
    cut = case.operator == "Pad" and any((o.array < 0).any() for o in case.operands[1:2] if o is not None)
    zeros = case.operator == "ReduceProd" and any((o.array == 0).any() for o in case.operands[:1] if o is not None)
    return unlike or cut or zeros or case.operator in ("Max", "Min")


COMMON = [case for case in CASES if "." not in case.operator and not known_to_differ(case)]


@pytest.mark.parametrize("case", COMMON, ids=str)
def test_both_agree(case: Case) -> None:
    model, feeds, wrt = build(case, np.float32, dynamic=False)
    model = onnx.shape_inference.infer_shapes(model)
    output = model.graph.output[0].name
    rng = np.random.default_rng(8)
    try:
        peer = onnx_ad.reverse(model, inputs=wrt, outputs=[output], layout="onnx")
    except REFUSED as refusal:
        pytest.skip(f"onnx-ad has no answer: {refusal}")
    ours = differentiate(model, output, wrt)
    cotangent = rng.standard_normal(run(model, feeds)[0].shape).astype(np.float32)
    known = {"cotangent": cotangent, **feeds}
    answers = dict(
        zip(
            (o.name for o in ours.model.graph.output),
            run(ours.model, {i.name: known[i.name] for i in ours.model.graph.input}),
            strict=True,
        )
    )
    seed = next(i.name for i in peer.graph.input if i.name not in feeds)
    theirs = dict(
        zip((o.name for o in peer.graph.output), run(peer, {**feeds, seed: cotangent[..., None]}), strict=True)
    )
    for name in wrt:
        found = next(value for key, value in theirs.items() if key == f"adj_{name}")
        np.testing.assert_allclose(
            answers[ours.gradients[name]], found[..., 0].reshape(feeds[name].shape), rtol=1e-3, atol=1e-4
        )
