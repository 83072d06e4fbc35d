"""From what a spec says to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uadctl.engines.here import Here

if TYPE_CHECKING:
    from uadctl.engines.base import Engine
    from uadctl.spec.grammar import RunTable


def choose_engine(table: RunTable) -> Engine:
    """The engine of `[run]`: nothing is started yet. BackendMissing without the extra that it needs.

    A worker of Ray sees no GPU but those that it takes: with a device of CUDA it takes one unless the table says more.
    """
    if table.engine == "ray":
        from uadctl.engines.cluster import OnRay

        gpus = 1.0 if table.gpus is None and table.device.startswith("cuda") else table.gpus
        return OnRay(
            address=table.address,
            workers=table.workers,
            cpus=table.threads if table.cpus is None else table.cpus,
            gpus=gpus or 0.0,
        )
    if (table.workers or 1) == 1:
        return Here()
    from uadctl.engines.processes import Processes

    return Processes(table.workers or 1)
