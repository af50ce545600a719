"""ONNX Runtime sessions for a worker: few threads, bounded memory, and runs that another thread can cancel."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxplain.facts.errors import Cancelled, InputRefusedByModel, InputTooLarge, ModelRefused

_NO_HUGE_PAGE = 15  # MADV_NOHUGEPAGE of madvise(2)

ort.set_default_logger_severity(4)  # what goes wrong is raised; the log would only repeat it, with paths


class Cancellation:
    """Stops the running sessions of a worker from another thread, and every later run until `reset()`.

    The runtime looks at the flag between two nodes, so one long node is finished first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._running: set[ort.RunOptions] = set()  # several threads may run at once

    def cancel(self) -> None:
        """Stop the current runs, and make every later one raise Cancelled."""
        with self._lock:
            self._cancelled = True
            for options in self._running:
                options.terminate = True

    def reset(self) -> None:
        """Allow runs again."""
        with self._lock:
            self._cancelled = False

    def check(self) -> None:
        """Raise Cancelled if `cancel()` was called; for loops between runs."""
        if self._cancelled:
            raise Cancelled("The work was stopped before it was finished; send the request again.")

    def begin(self) -> ort.RunOptions:
        """Options for one run, which `cancel()` will reach until `end()`."""
        options = ort.RunOptions()
        with self._lock:
            self.check()
            self._running.add(options)
        return options

    def end(self, options: ort.RunOptions) -> None:
        """The run that `begin()` gave these options is over."""
        with self._lock:
            self._running.discard(options)


class Session:
    """One graph in ONNX Runtime.

    Args:
        model: the graph, or the bytes of a file with one; it is serialised, so the caller may drop it afterwards.
        cancellation: stops runs of this session.
        threads: threads inside one operator.
        optimise: whether the runtime may rewrite the graph; off for graphs that run once.

    Raises:
        ModelRefused: the runtime cannot load the graph.
    """

    def __init__(
        self, model: onnx.ModelProto | bytes, cancellation: Cancellation, threads: int = 1, *, optimise: bool = True
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")  # `share_arena`, where that was called
        # Outside of the arena, weights are allocated once at their size; in it, they would fragment what runs need.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = model if isinstance(model, bytes) else model.SerializeToString()
        except ValueError as error:  # protobuf's own limit
            raise ModelRefused(
                "The model is larger than 2 GiB, more than one ONNX file can hold; use a smaller one."
            ) from error
        try:
            self._session = ort.InferenceSession(
                content,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_misleading(model) if isinstance(model, onnx.ModelProto) else None,
            )
            self.inputs: tuple[str, ...] = tuple(value.name for value in self._session.get_inputs())
            self.types: dict[str, str] = {value.name: value.type for value in self._session.get_outputs()}
        except Exception as error:
            raise ModelRefused(
                f"ONNX Runtime {ort.__version__} cannot load this model ({_sentence(error)}); "
                "export it again with operators that this runtime has."
            ) from error
        # The wrapper keeps the bytes to be able to change providers later, which never happens here: a copy of all weights.
        self._session._model_bytes = None  # noqa: SLF001
        self._cancellation = cancellation

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None) -> list[Any]:
        """The wanted outputs (default: all, in the graph's order).

        Raises:
            Cancelled: the run was stopped from another thread.
            InputRefusedByModel: the runtime failed on these values or shapes.
            InputTooLarge: the run needs more memory than this process may use.
        """
        options = self._cancellation.begin()
        try:
            results: list[Any] = self._session.run(outputs, feeds, options)
        except Exception as error:
            self._cancellation.check()
            if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
                raise InputTooLarge(
                    "Running the model on this input needs more memory than a worker may use; send less at once."
                ) from error
            raise InputRefusedByModel(
                f"The model's runtime refused this input ({_sentence(error)}); check its shape, types and values."
            ) from error
        finally:
            self._cancellation.end(options)
        return results


def _misleading(model: onnx.ModelProto) -> set[str]:
    """Optimisers that would change what this graph computes, or crash on it.

    ONNX Runtime 1.31 takes a Pad into the MaxPool behind it, whose own border is smaller than any number: where all of a window is
    negative, the Pad's zeros were the largest. BiT networks begin so. And it crashes on taking a transpose of half precision, made from
    float32, into a matrix product.
    """
    padded = {node.output[0] for node in model.graph.node if node.op_type == "Pad"}
    pooled = {node.input[0] for node in model.graph.node if node.op_type == "MaxPool"}
    found = set() if padded.isdisjoint(pooled) else {"Pad_Fusion"}
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        found.add("MatmulTransposeFusion")
    return found


# What ONNX Runtime and its allocators say; it has no error of its own for this.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad array new length",
    "Failed to allocate",
    "Available memory of",
    "size overflowed",
    "Integer overflow",
    "the supported maximum of",
)


def share_arena(most_bytes: int) -> None:
    """Let all later sessions of this process take what their runs need from one arena of at most so many bytes.

    An arena of its own would keep the greatest need of each session for that session alone.

    Args:
        most_bytes: a run that needs more is refused; 0 for no limit.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": most_bytes}))


def release_memory() -> None:
    """Give back what loading a model used for a moment, which is as much as its weights two or three times over.

    glibc keeps freed memory for later; a worker that has loaded a model will not need that much again.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call, and need none
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        # Memory that is in pages of 2 MiB already stays in them. Without this call the kernel would merge the other pages into such
        # pages minutes later, and so take back the memory that was just freed between them.
        for line in Path("/proc/self/maps").read_text().splitlines():
            extent, rights, *_, last = line.split()
            if rights == "rw-p" and last in ("0", "[heap]"):
                start, end = (int(address, 16) for address in extent.split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _NO_HUGE_PAGE)


def _sentence(error: Exception) -> str:
    """The gist of a runtime's message: its last part, without status code, file names and addresses."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    parts = [part.strip() for part in text.split(" : ") if part.strip()]
    gist = parts[-1] if parts else text
    return " ".join(word for word in gist.split() if "/" not in word and "0x" not in word)[:200].rstrip(".")
