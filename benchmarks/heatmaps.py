"""Heatmaps beside the peers: time, memory and agreement on the same weights, the contestants taking turns.

    python benchmarks/heatmaps.py [--models resnet50 ...] [--rounds 15] [--threads 1] [--clock wall|cpu]
        [--peer-python PYTHON]

Exports torchvision architectures with fixed random weights, then asks every contestant in turn, round after round, each in a
process of its own: the bare ONNX Runtime forward run of the file, this service's worker code, pytorch-grad-cam, Captum and torch
itself. Prints medians, ratios to the bare forward run of the same round, and peak memory, and writes them into
`benchmarks/RESULTS.md`. Needs the `bench` extra; `--peer-python` names another environment for torch and the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16")
OURS = ("bare forward", "bare forward, large pages", "predict", "Grad-CAM", "input gradient")
PEERS = (
    "torch forward",
    "pytorch-grad-cam Grad-CAM",
    "Captum Grad-CAM",
    "torch input gradient",
    "Captum saliency",
)


def picture() -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)


# Contestants: each returns a function that does the work once and gives the array to be compared.


def our_contestant(task: str, file: Path, threads: int) -> Callable[[], Any]:
    x = picture()
    if task.startswith("bare forward"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})[0]
    from onnxplain.explainers.pictures import cam
    from onnxplain.model import Cancellation, ImageModel, load

    model = load(file, name="bench", cancellation=Cancellation(), threads=threads)
    assert isinstance(model, ImageModel)

    target = int(model.predict(x).argmax())

    def grad_cam() -> Any:
        run = model.at_layer(x)
        return cam.grad_cam(run.activations, run.gradient([target])[0])

    tasks = {
        "predict": lambda: model.predict(x),
        "Grad-CAM": grad_cam,
        "input gradient": lambda: model.input_gradient(x, [target]).gradient,
    }
    return tasks[task]


def torch_model(name: str) -> Any:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):  # torchvision looks them up at import; a CPU build from elsewhere may lack them
        with contextlib.suppress(RuntimeError):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.02)
    model.library = library  # lives as long as the model
    return model.eval()


def target_layer(name: str, model: Any) -> Any:
    """The module whose output is the layer that this service finds by itself."""
    if name.startswith("vit"):
        return model.encoder.layers[-2]
    return model.layer4 if name.startswith("resnet") else model.features


def peer_contestant(task: str, name: str, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    model = torch_model(name)
    x = torch.from_numpy(picture())
    with torch.inference_mode():
        target = int(model(x).argmax())
    if task == "torch forward":

        def forward() -> Any:
            with torch.inference_mode():
                return model(x).numpy()

        return forward
    if task == "torch input gradient":

        def gradient() -> Any:
            inputs = x.clone().requires_grad_(True)
            return torch.autograd.grad(model(inputs)[0, target], inputs)[0].numpy()

        return gradient
    if task == "Captum saliency":
        from captum.attr import Saliency

        return lambda: Saliency(model).attribute(x.clone().requires_grad_(True), target=target, abs=False).numpy()
    layer = target_layer(name, model)
    if task == "Captum Grad-CAM":
        from captum.attr import LayerGradCam

        if name.startswith("vit"):
            raise NotImplementedError("no reshaping of tokens")
        method = LayerGradCam(model, layer)
        return lambda: method.attribute(x, target=target, relu_attributions=True).detach().numpy()[0, 0]
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    reshape = (lambda y: y[:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)) if name.startswith("vit") else None
    cam = GradCAM(model, [layer], reshape_transform=reshape)
    kept: dict[str, Any] = {}
    compute = cam.get_cam_image
    cam.get_cam_image = lambda *given, **named: kept.setdefault("map", compute(*given, **named))

    def grad_cam() -> Any:
        kept.clear()
        cam(x, [ClassifierOutputTarget(target)])
        return kept["map"][0].clip(0)

    return grad_cam


def contestant(task: str, name: str, file: Path, threads: int, answer: Path, clock: str) -> None:
    """Child process: do the work once for each line on stdin, answer with seconds; at the end with its memory."""
    import resource

    import numpy as np

    try:
        work = our_contestant(task, file, threads) if task in OURS else peer_contestant(task, name, threads)
        np.save(answer, work())
        work()
    except Exception as error:  # noqa: BLE001 # whatever it is, the table says that this contestant cannot do it
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    now = time.process_time if clock == "cpu" else time.perf_counter
    for _ in sys.stdin:
        began = now()
        work()
        print(json.dumps({"seconds": now() - began}), flush=True)
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"resident_mb": resident, "peak_mb": peak}), flush=True)


def export(name: str, file: Path) -> None:
    """Child process: the architecture as ONNX."""
    import torch

    model, x = torch_model(name), torch.from_numpy(picture())
    axes = {"input": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(
        model,
        (x,),
        str(file),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


class Contestant:
    """A process that does one task when asked."""

    def __init__(self, task: str, name: str, file: Path, threads: int, python: str, clock: str) -> None:
        self.task = task
        self.answer = file.parent / f"{task.replace(' ', '-')}.npy"
        arguments = ["contestant", task, name, str(file), str(threads), str(self.answer), clock]
        from onnxplain.workers.process import worker_environment  # not in the environment of the peers

        base = worker_environment() if task in OURS[1:] else os.environ
        environment = base | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, __file__, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.seconds: list[float] = []
        self.resident_mb = self.peak_mb = 0.0
        self.error = self._read().get("error", "")

    def once(self) -> None:
        """Have the work done once more, and keep its time."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.seconds.append(self._read()["seconds"])

    def finish(self) -> None:
        """End the process and ask for its peak memory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self.error:
            memory = self._read()
            self.resident_mb, self.peak_mb = memory["resident_mb"], memory["peak_mb"]
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print, too
                answer: dict[str, Any] = json.loads(line)
                return answer
        return {"error": "the process ended"}


def compete(name: str, folder: Path, rounds: int, threads: int, python: str, clock: str) -> list[str]:
    """The rows of one model's table."""
    import numpy as np

    file = folder / f"{name}.onnx"
    subprocess.run(
        [python, __file__, "export", name, str(file)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    contestants = [Contestant(task, name, file, threads, sys.executable, clock) for task in OURS]
    contestants += [Contestant(task, name, file, threads, python, clock) for task in PEERS]
    able = [c for c in contestants if not c.error]
    for _ in range(rounds):
        for c in able:
            c.once()
    for c in contestants:
        c.finish()
    bare = contestants[0].seconds
    found = {c.task: np.load(c.answer) for c in able}

    def difference(task: str, other: str) -> str:
        if task not in found or other not in found:
            return ""
        a, b = found[task].ravel().astype(np.float64), found[other].ravel().astype(np.float64)
        return f"{np.linalg.norm(a - b) / np.linalg.norm(b):.1e}"

    compared = {
        "Grad-CAM": "pytorch-grad-cam Grad-CAM",
        "input gradient": "torch input gradient",
        "predict": "bare forward",
    }
    rows = []
    for c in contestants:
        if c.error:
            rows.append(f"| {name} | {c.task} | not done: {c.error} | | | | |")
            continue
        ratio = statistics.median(mine / base for mine, base in zip(c.seconds, bare, strict=True))
        agreement = difference(c.task, compared[c.task]) if c.task in compared else ""
        milliseconds = statistics.median(c.seconds) * 1e3
        whose = c.task if c.task in (*OURS[:2], *PEERS) else f"**onnxplain {c.task}**"
        rows.append(
            f"| {name} | {whose} | {milliseconds:.1f} | {ratio:.2f} | {c.resident_mb:.0f} | {c.peak_mb:.0f} | {agreement} |"
        )
        print(rows[-1], flush=True)
    return rows


def write_section(name: str, text: str) -> None:
    """Replace one section of RESULTS.md, between its markers."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = RESULTS.read_text() if RESULTS.exists() else "# Benchmarks\n"
    section = f"{start}\n{text.strip()}\n{end}"
    if start in before:
        head, rest = before.split(start, 1)
        after = head + section + rest.split(end, 1)[1]
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    RESULTS.write_text(after)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "export":
        export(sys.argv[2], Path(sys.argv[3]))
        return
    if len(sys.argv) > 1 and sys.argv[1] == "contestant":
        contestant(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]), sys.argv[7])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: the process's own time, on a busy machine"
    )
    parser.add_argument("--print-only", action="store_true", help="do not write RESULTS.md")
    given = parser.parse_args()
    rows = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += compete(name, Path(folder), given.rounds, given.threads, given.peer_python, given.clock)
        if not given.print_only:
            write_section("heatmaps", report(rows, given))


def report(rows: list[str], given: argparse.Namespace) -> str:
    script = "import importlib.metadata as m; print(*(p + ' ' + m.version(p) for p in ('torch', 'torchvision', 'grad-cam', 'captum')), sep=', ')"
    peers = subprocess.run([given.peer_python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    versions = f"ONNX Runtime {importlib.metadata.version('onnxruntime')}, {peers}, Python {platform.python_version()}"
    table = "\n".join(rows)
    return f"""
## Heatmaps

`python benchmarks/heatmaps.py --rounds {given.rounds} --threads {given.threads} --clock {given.clock}`: one picture of 224 x 224, the same weights for all,
every contestant in a process of its own and asked in turn; {os.cpu_count()} cores, {given.threads} thread each.
{"Times are those that the process itself used, on a machine that had other work." if given.clock == "cpu" else "Times are those of a clock on the wall."}
{versions}.

*Ratio*: to the bare ONNX Runtime forward run of the same file, median over the rounds of the ratio within a round. *Resident*: memory of
the process after the work; *peak*: its greatest size, loading included. *Difference*: relative L2 distance of our map to pytorch-grad-cam's, of our input gradient to torch's,
of our scores to the bare run's. The class is the top one, the layer what this service finds by itself; the peers are told it, and how to read its tokens.
Ours runs as the service's workers do, which ask glibc for pages of 2 MiB (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`); the second row says what these do for the bare run.

| model | contestant | median ms | ratio | resident MB | peak MB | difference |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
{table}
"""


if __name__ == "__main__":
    main()
