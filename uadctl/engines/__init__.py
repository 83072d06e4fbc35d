"""Where units of work run: in this process, in several of this machine, or on the nodes of a Ray cluster.

A `Job` says what is done with each unit, and travels to each worker once; an `Engine` hands the units out, and gives
back one `Outcome` for each. What is computed does not depend on where: every worker computes with the same number of
threads, and a unit is done in one piece, from its beginning.
"""

from __future__ import annotations

from uadctl.engines.base import ATTEMPTS, Engine, Job, Outcome, Unit, UnitLost, Work
from uadctl.engines.choosing import choose_engine
from uadctl.engines.here import Here

__all__ = ["ATTEMPTS", "Engine", "Here", "Job", "Outcome", "Unit", "UnitLost", "Work", "choose_engine"]
