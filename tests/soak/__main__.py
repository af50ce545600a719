"""Every soak run, one after the other: `make soak`. Two hours or so; each also runs alone, and shorter when asked."""

from __future__ import annotations

from tests.soak import drains, fuzz, leavers, many_models, memory, mutants, overhead, overload, slow_clients, swaps

for run in (overhead, overload, leavers, slow_clients, many_models, swaps, drains, mutants, fuzz, memory):
    run.main()
