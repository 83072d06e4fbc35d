"""Memory banks: which features to keep (coreset) and how to search them (index)."""

from uadctl.memory.coreset import greedy_coreset, random_coreset
from uadctl.memory.cosine import CosineBank, unit_length
from uadctl.memory.index import KNNIndex, make_index
from uadctl.memory.store import FeatureStore

__all__ = ["CosineBank", "FeatureStore", "KNNIndex", "greedy_coreset", "make_index", "random_coreset", "unit_length"]
