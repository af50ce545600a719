"""What a session leaves behind in its process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxplain.model.runtime.sessions import release_memory

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not HUGE_PAGES.exists(), reason="this kernel has no large pages that it hands out by itself")
def test_holes_that_were_given_back_are_not_filled_with_large_pages_later() -> None:
    """A worker would grow by a fifth, minutes after it has loaded its model."""
    release_memory()
    maps = re.split(r"\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text())
    heap = next(entry for entry in maps if entry.partition("\n")[0].endswith("[heap]"))
    flags = next(line for line in heap.splitlines() if line.startswith("VmFlags"))
    assert "nh" in flags.split()
