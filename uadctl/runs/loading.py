"""A fitted model, wherever it is kept: in a run folder or in a bundle."""

from __future__ import annotations

from pathlib import Path

from uadctl.runs.bundle import is_bundle, load_bundle, refuse_choice
from uadctl.runs.fitted import Fitted, load
from uadctl.runs.folder import RunFolder


def load_run(
    path: str | Path,
    *,
    category: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> Fitted:
    """The fitted model of a run folder, which one, if it has several; or that of a bundle.

    Raises RunError, listing them, if that is not clear, and for a choice where a bundle has but one.
    """
    if is_bundle(path):
        refuse_choice(path, category=category, label=label, seed=seed)
        return load_bundle(path, device=device).fitted
    return load(RunFolder.open(Path(path)).choose(category=category, label=label, seed=seed), device=device)
