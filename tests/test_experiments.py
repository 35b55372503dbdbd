"""Every experiment's TOML is one that its command takes."""

import tomllib
from pathlib import Path

import pytest

from proxynas import distill, spaces
from proxynas.core import resources, settings
from proxynas.pipeline import selection
from proxynas.specs import CompareSpec, SearchSpec

FILES = sorted(resources.folder("experiments").glob("*.toml"))
COMPARISONS = [path for path in FILES if "rows" in tomllib.loads(path.read_text())]
SEARCHES = [path for path in FILES if path not in COMPARISONS]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparisons_load(path: Path) -> None:
    spec = settings.load(CompareSpec, path, {})
    for row in spec.rows:
        method = row.method or spec.method
        own = {**spec.settings.get(method, {}), **row.settings}
        settings.make(distill.find(method).settings, own, where=f"{path.name}, {row.name}")


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_searches_load(path: Path) -> None:
    spec = settings.load(SearchSpec, path, {})
    selection.choose_indicator(spec, spaces.load(spec.space, spec.space_options))
    settings.make(distill.find(spec.method).settings, spec.settings, where=path.name)
    assert spec.candidate_recipe().updates == spec.updates
