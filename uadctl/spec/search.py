"""The ways to search a memory bank, as data: what there is, and what goes with what. Nothing heavy is imported."""

from __future__ import annotations

from typing import Literal, get_args

Backend = Literal["torch", "numpy", "sklearn", "faiss"]
Precision = Literal["fp32", "bf16", "auto"]
FaissIndex = Literal["flat", "ivf", "ivfpq"]


def wrong_search(*, backend: str, precision: str, verify: bool, faiss_index: str) -> list[str]:
    """What is wrong with these choices: unknown ones, and those that the backend would have to ignore."""
    wrong = [
        f"{name} {value!r} is unknown; choose one of: {', '.join(choices)}"
        for name, value, choices in (
            ("knn_backend", backend, get_args(Backend)),
            ("knn_precision", precision, get_args(Precision)),
            ("faiss_index", faiss_index, get_args(FaissIndex)),
        )
        if value not in choices
    ]
    if backend != "torch" and precision != "fp32":
        wrong.append(f'knn_precision {precision!r} is for knn_backend "torch", found {backend!r}')
    if backend != "torch" and verify:
        wrong.append(f'knn_verify is for knn_backend "torch", found {backend!r}')
    if backend != "faiss" and faiss_index != "flat":
        wrong.append(f'faiss_index {faiss_index!r} is for knn_backend "faiss", found {backend!r}')
    return wrong
