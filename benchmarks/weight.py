"""How heavy the service is: installed size, wheels, time to ready, memory at rest.

    .venv/bin/python benchmarks/weight.py [--keep DIR]

Installs the run-time environment anew into a folder of its own, as the container image does (without pip), starts the
service from there with the demo models and one worker, and prints the figures of the README's table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTS = 5
IDLE_S = 3.0


def install(environment: Path) -> None:
    """The run-time environment, and nothing that only installs it."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = environment / "source"  # building leaves files beside the package; not in the repository
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*pip, "install", "--constraint", ROOT / "constraints.txt", source], check=True)
    shutil.rmtree(source)
    subprocess.run([*pip, "uninstall", "--yes", "setuptools", "pip"], check=True)


def size_mb(folder: Path) -> float:
    """Space taken on disk, bytecode included."""
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*")) / 1e6


def start(environment: Path, port: int) -> tuple[subprocess.Popen[bytes], float, float]:
    """A service with one worker, the seconds until it was ready, and how many of them it was computing.

    The second figure hardly depends on what else the machine does.
    """
    settings = {"ONNXPLAIN_WORKERS": "1", "ONNXPLAIN_PORT": str(port), "ONNXPLAIN_MODELS": str(ROOT / "models")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [environment / "bin" / "onnxplain", "serve"],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while time.perf_counter() - began < 60:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
            took = time.perf_counter() - began
            return process, took, sum(map(processor_s, [process.pid, *children(process.pid)]))
        except OSError:
            time.sleep(0.01)
    raise SystemExit("the service did not become ready within 60 s")


def children(process: int) -> list[int]:
    """Process IDs of the workers."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def processor_s(process: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> tuple[float, float]:
    """Resident and proportional set size of one process."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    kib = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return kib["Rss:"] * 1024 / 1e6, kib["Pss:"] * 1024 / 1e6


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="keep the environment here, and use it if it exists")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as scratch:
        environment = keep or Path(scratch) / "environment"
        if not environment.exists():
            install(environment)
        site = next(environment.glob("lib/python*/site-packages"))
        wheels = sorted(folder.name.partition("-")[0] for folder in site.glob("*.dist-info"))
        seconds, computing = [], []
        for _ in range(STARTS + 1):  # the first start reads everything from disk
            process, took, computed = start(environment, free_port())
            seconds.append(took)
            computing.append(computed)
            if len(seconds) <= STARTS:
                process.send_signal(signal.SIGTERM)
                process.wait()
        time.sleep(IDLE_S)
        web, worker = resident_mb(process.pid), [resident_mb(child) for child in children(process.pid)]
        process.send_signal(signal.SIGTERM)
        process.wait()
        print(f"| installed run-time environment, bytecode included | {size_mb(environment):.0f} MB |")
        print(f"| wheels beside onnxplain itself | {len(wheels) - 1} |")
        print(f"| start to ready with the demo models, median of {STARTS} | {statistics.median(seconds[1:]):.2f} s |")
        print(f"| processor time until then, both processes | {statistics.median(computing[1:]):.2f} s |")
        print(f"| resident at rest, web process | {web[0]:.0f} MB |")
        print(f"| resident at rest, {len(worker)} worker with four models | {sum(rss for rss, _ in worker):.0f} MB |")
        print(f"| both together | {web[0] + sum(rss for rss, _ in worker):.0f} MB |")
        print(f"| both together, shared pages counted once | {web[1] + sum(pss for _, pss in worker):.0f} MB |")
        largest = sorted(((size_mb(each), each.name) for each in site.iterdir() if each.is_dir()), reverse=True)[:8]
        print("\nlargest: " + ", ".join(f"{name} {size:.0f} MB" for size, name in largest))
        print(f"starts: {', '.join(f'{took:.2f}' for took in seconds)} s; wheels: {', '.join(wheels)}")


if __name__ == "__main__":
    main()
