from dataclasses import replace
from pathlib import Path

import pytest
import torch

from proxynas import datasets, proxyset
from proxynas.core import resources
from proxynas.core.errors import ProxyFileError, SpecError
from proxynas.datasets import Dataset, Split
from proxynas.proxyset import ProxySet, cards

MOST = 30 * 2**20


@pytest.mark.parametrize("name", proxyset.names())
def test_every_shipped_set_has_a_card_and_the_page_its_figures(name: str) -> None:
    card = proxyset.card(name)
    assert card is not None
    assert card.data in {known.name for known in datasets.names()}
    arch, (mean, sd) = next(iter(card.accuracy.items()))
    random = "{:.1f} ± {:.1f} ".format(*card.random[arch]) if arch in card.random else ""
    about = proxyset.read(name).provenance
    row = f"| `{name}` | {mean:.1f} ± {sd:.1f} | {random}| {about['core_seconds']:.0f} | "
    assert f"{row}{card.ranks} |" in (resources.folder("distilled_sets") / "README.md").read_text()


def test_the_shipped_sets_are_small() -> None:
    files = resources.folder("distilled_sets").iterdir()
    assert sum(file.stat().st_size for file in files) < MOST


def test_a_shipped_set_stands_for_the_published_data(digits: Dataset) -> None:
    proxy = proxyset.read("mnist-gm-ipc1")
    x = torch.zeros(1, 1, 28, 28)
    split = Split(x, torch.zeros(1, dtype=torch.int64))
    published = replace(digits, name="mnist", train=split, fingerprint="of another copy")
    assert proxyset.stands_for(proxy, published)
    proxyset.check(proxy, published)
    with pytest.raises(ProxyFileError, match="was made for data"):
        proxyset.check(proxy, replace(published, name="not mnist"))
    with pytest.raises(ProxyFileError, match="was made for classes"):
        proxyset.check(proxy, replace(published, class_names=digits.class_names[::-1]))


def test_it_stands_for_no_other_split_of_the_very_data(digits: Dataset) -> None:
    another = datasets.load("digits", val_fraction=0.6)
    with pytest.raises(ProxyFileError, match="was made for data"):
        proxyset.check(proxyset.read("digits-gm-ipc1"), another)


def test_a_file_of_ones_own_stands_for_nothing_else(digits: Dataset, tmp_path: Path) -> None:
    shipped = proxyset.read("digits-gm-ipc1")
    assert shipped.provenance["stands_for"] == "digits"
    about = {key: value for key, value in shipped.provenance.items() if key != "stands_for"}
    own: ProxySet = replace(shipped, provenance=about)
    own.save(tmp_path / "own.safetensors")
    own = proxyset.read(tmp_path / "own.safetensors")
    with pytest.raises(ProxyFileError, match="was made for data"):
        proxyset.check(own, replace(digits, fingerprint="of another copy"))


def test_a_damaged_card_names_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cards.resources, "folder", lambda name: tmp_path)
    (tmp_path / "a.toml").write_text("datum = 1\n")
    with pytest.raises(SpecError, match="datum"):
        cards.card("a")
    assert cards.card("b") is None
    assert cards.card("../a") is None
    assert cards.card("a" * 300) is None
