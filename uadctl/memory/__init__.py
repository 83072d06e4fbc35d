"""Memory banks: which features to keep (coreset) and how to search them (index)."""

from uadctl.memory.coreset import greedy_coreset
from uadctl.memory.index import KNNIndex, make_index

__all__ = ["KNNIndex", "greedy_coreset", "make_index"]
