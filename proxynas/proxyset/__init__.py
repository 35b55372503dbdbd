"""Proxy sets: tensors, the recipe and the preprocessing they were made for, and where they come
from, in one file."""

from .file import ProxySet, check, locate, merge, names, read, recipe_for

__all__ = ["ProxySet", "check", "locate", "merge", "names", "read", "recipe_for"]
