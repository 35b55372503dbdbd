"""Ground truth: tables of what candidates reach on the whole data, measured here or imported."""

from .table import COLUMNS, FORMAT, TruthTable, find, read

__all__ = ["COLUMNS", "FORMAT", "TruthTable", "find", "read"]
