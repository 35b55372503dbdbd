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


def test_tables_merge_at_every_depth_and_nothing_that_was_given_is_changed() -> None:
    below = {
        "ipc": 1,
        "settings": {"gm": {"lr": 0.5, "init": "real"}, "apm": {"width": 8}},
        "also": ["a"],
    }
    over = {
        "ipc": None,
        "settings": {"gm": {"lr": 0.25}},
        "also": ["b"],
        "recipe": {"momentum": 0.0},
    }
    assert settings.merge(below, over) == {
        "ipc": 1,
        "settings": {"gm": {"lr": 0.25, "init": "real"}, "apm": {"width": 8}},
        "also": ["b"],
        "recipe": {"momentum": 0.0},
    }
    assert below["settings"] == {"gm": {"lr": 0.5, "init": "real"}, "apm": {"width": 8}}


@pytest.mark.parametrize(
    "line", ['method = "herding"', "ipc = 10", "steps = 5", "[settings]\nlr = 0.5"]
)
def test_a_proxy_set_and_how_to_make_one_are_refused_in_a_file_as_from_flags(
    line: str, tmp_path: Path
) -> None:
    key = line.strip("[").split()[0].strip("]")
    path = tmp_path / "spec.toml"
    path.write_text(f'proxy = "mine.safetensors"\n{line}\n')
    with pytest.raises(SpecError, match=f"exists already, so {key} would change nothing"):
        settings.load(SearchSpec, path, {})
    path.write_text(line)
    with pytest.raises(SpecError, match=f"exists already, so {key} would change nothing"):
        settings.load(SearchSpec, path, {"proxy": "mine.safetensors"})


def test_the_file_of_a_run_with_a_proxy_set_can_be_read_back(tmp_path: Path) -> None:
    spec = SearchSpec(proxy="mine.safetensors")
    (tmp_path / "spec.toml").write_text(settings.to_toml(spec))
    assert settings.load(SearchSpec, tmp_path / "spec.toml", {}) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("candidates = true", "candidates: expected a number, but got true"),
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


def test_a_flag_and_its_field_are_one_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('baseline = ["zero-cost"]\n[set]\ninit = "real"\n')
    spec = settings.load(SearchSpec, file, {})
    assert (spec.baselines, spec.settings) == (("zero-cost",), {"init": "real"})
    file.write_text('baseline = ["zero-cost"]\nbaselines = ["random"]\n')
    with pytest.raises(SpecError, match="'baselines' is there twice"):
        settings.load(SearchSpec, file, {})
    file.write_text("workers = 2\n")
    with pytest.raises(SpecError, match="'workers' is no key; --workers is a flag"):
        settings.load(SearchSpec, file, {})
