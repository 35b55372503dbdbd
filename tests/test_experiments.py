"""Every experiment's TOML is one that its command takes."""

import tomllib
from pathlib import Path

import pytest

from proxynas import distill, headline, resources, settings, spaces
from proxynas.specs import SearchSpec

FILES = sorted(resources.folder("experiments").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_searches_load(path: Path) -> None:
    if "rows" in tomllib.loads(path.read_text()):
        pytest.skip("a comparison")
    spec = settings.load(SearchSpec, path, {})
    headline.choose_indicator(spec, spaces.load(spec.space, spec.space_settings))
    settings.make(distill.find(spec.method).settings, spec.settings, where=path.name)
    assert spec.recipe().updates == spec.updates
