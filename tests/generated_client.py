"""A client generated from /openapi.json by openapi-python-client, against the running service. Run by `make generated-client`.

The generator wants its own versions of things, so it lives in an environment of its own, and this is no part of `make test`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import DEMO_MODELS, ROOT, running

GENERATOR = "openapi-python-client==0.29.1"
ENVIRONMENT = ROOT / ".venv-generated"

GENERATE = [
    "generate",
    "--fail-on-warning",
    "--path",
    "openapi.json",
    "--config",
    "config.yaml",
    "--output-path",
    "generated",
]

# The generator knows JSON, forms and octets; a picture or a table as the body is octets to it.
CONFIG = """\
content_type_overrides:
  image/png: application/octet-stream
  image/jpeg: application/octet-stream
  image/webp: application/octet-stream
  text/csv: application/octet-stream
  application/vnd.apache.parquet: application/octet-stream
  application/vnd.apache.arrow.file: application/octet-stream
"""

PROGRAM = """
import base64, io, sys
from onnxplain_client import Client
from onnxplain_client.api.explain_a_picture import explain_gradcam, explain_integrated_gradients
from onnxplain_client.api.explain_a_table import explain_permutation_importance
from onnxplain_client.api.models import get_model, list_models, predict
from onnxplain_client.api.operations import health_ready, limits
from onnxplain_client.models import (
    ExplainGradcamFilesBody, ExplainGradcamJsonBody, ExplainIntegratedGradientsJsonBody, ExplainPermutationImportanceJsonBody, Problem,
)
from onnxplain_client.types import File

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
picture = open(sys.argv[2], "rb").read()

assert {model.name for model in list_models.sync(client=client).models} >= {"shapes", "digits"}
card = get_model.sync("shapes", client=client)
assert card.classes[3] == "star" and card.gradient.source.value == "exact"
assert health_ready.sync(client=client).status.value == "ok"
assert limits.sync(client=client).workers >= 1

encoded = base64.b64encode(picture).decode()
for body in (
    ExplainGradcamJsonBody(image=encoded, target=["star"]),
    ExplainGradcamFilesBody(image=File(io.BytesIO(picture), "star.jpg", "image/jpeg")),
):
    answer = explain_gradcam.sync("shapes", client=client, body=body, values=True)
    assert answer.explanations[0].target.label == "star" and len(answer.explanations[0].values) == 24
answer = explain_integrated_gradients.sync("shapes", client=client, body=ExplainIntegratedGradientsJsonBody(image=encoded), steps=8)
assert answer.explanations[0].layer is None

table = explain_permutation_importance.sync(
    "breast-cancer", client=client, body=ExplainPermutationImportanceJsonBody(metrics=["accuracy"], n_repeats=3)
)
assert len(table.importances["accuracy"]) == 30 and len(table.importances["accuracy"][0].values) == 3

problem = explain_gradcam.sync("nothing", client=client, body=ExplainGradcamJsonBody(image=encoded))
assert isinstance(problem, Problem) and problem.code == "model_not_found", problem
print("a generated client lists, explains pictures and tables, and gets typed problems")
"""


def main() -> None:
    """Generate, then use what was generated."""
    if not ENVIRONMENT.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    binaries = ENVIRONMENT / "bin"
    pip = [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, GENERATOR], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.yaml").write_text(CONFIG)
        with running(folder / "log") as service:
            (folder / "openapi.json").write_text(json.dumps(service.client.get("/openapi.json").json()))
            subprocess.run(
                [binaries / "openapi-python-client", *GENERATE],
                cwd=folder,
                env=os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"},
                check=True,
            )
            picture = DEMO_MODELS / "shapes" / "samples" / "star.jpg"
            program = [binaries / "python", "-c", PROGRAM, service.url, picture]
            raise SystemExit(subprocess.run(program, cwd=folder / "generated", check=False).returncode)


if __name__ == "__main__":
    main()
