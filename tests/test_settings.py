from pathlib import Path

import pytest

from proxynas.core import settings
from proxynas.core.errors import SpecError
from proxynas.specs import DistillSpec, SearchSpec, TruthSpec


@pytest.mark.parametrize("cls", [DistillSpec, SearchSpec, TruthSpec])
def test_toml_round_trip(cls: type, tmp_path: Path) -> None:
    spec = cls(seed=3)
    path = tmp_path / "spec.toml"
    path.write_text(settings.to_toml(spec))
    assert settings.load(cls, path, {}) == spec


def test_flags_win_over_the_file_and_unset_flags_do_not(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('ipc = 10\nmethod = "gm"\n[settings]\nlr = 0.5\ninit = "real"\n')
    spec = settings.load(SearchSpec, path, {"ipc": 2, "method": None, "settings": {"lr": 0.25}})
    assert spec.ipc == 2
    assert spec.method == "gm"
    assert spec.settings == {"lr": 0.25, "init": "real"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ipc = 0", "ipc: input should be greater than or equal to 1, but got 0"),
        ('ipc = "many"', "ipc: input should be a valid integer"),
        ("ipx = 1", "unknown key 'ipx'; did you mean 'ipc'"),
        ("zzz = 1", "unknown key 'zzz'; known keys"),
        ("lr = -0.1", "lr: input should be greater than 0, but got -0.1"),
        ("ipc = ", "is not valid TOML"),
        ("[settings\nlr = 1", "is not valid TOML"),
    ],
)
def test_bad_toml_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        settings.load(SearchSpec, path, {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nothing\.toml: No such file"):
        settings.load(SearchSpec, tmp_path / "nothing.toml", {})
