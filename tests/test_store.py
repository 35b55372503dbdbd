import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proxynas.core.errors import RunFolderError
from proxynas.search.store import Score, Store


def a_score(arch: str = "a", seed: int = 0, **changed: object) -> Score:
    values = {
        "source": "proxy",
        "arch": arch,
        "seed": seed,
        "val_accuracy": 0.5,
        "val_loss": 1.5,
        "val_auc": None,
        "test_accuracy": None,
        "test_loss": None,
        "sotl": 20.25,
        "losses": np.array([2.0, 1.0], np.float32),
        "seconds": 0.1,
        "failed": None,
    }
    return Score(**{**values, **changed})  # type: ignore[arg-type]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    store.add(
        [a_score("b", 1), a_score("b", 0), a_score("a", 0, val_accuracy=None, failed="it said NaN")]
    )
    frame = store.scores()
    assert frame[["arch", "seed"]].values.tolist() == [["a", 0], ["b", 0], ["b", 1]]
    assert np.isnan(frame["val_accuracy"][0])
    assert frame["failed"][0] == "it said NaN"
    assert frame["losses"][1].tolist() == [2.0, 1.0]
    assert store.done() == {("proxy", "a"): {0}, ("proxy", "b"): {0, 1}}


def test_what_is_added_is_on_disk_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    store.add([a_score()])
    store.add_candidates({"a": (10, 20)})
    other = Store(tmp_path / "run.sqlite")
    assert len(other.scores()) == 1
    assert other.candidates().loc["a"].tolist() == [10, 20]


def test_a_candidates_rows_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    with pytest.raises(RunFolderError, match="cannot write to the run store"):
        store.add([a_score("a", 0), a_score("a", 1, seconds=None)])
    assert store.scores().empty


def test_stage_seconds_add_up_over_starts(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.sqlite")
    store.add_stage_seconds("search", 2.0, 100.0)
    store.add_stage_seconds("search", 3.0, 50.0)
    assert store.stages() == {"search": {"seconds": 5.0, "peak_mib": 100.0}}


def test_a_store_belongs_to_one_spec(tmp_path: Path) -> None:
    Store(tmp_path / "run.sqlite").claim("one")
    Store(tmp_path / "run.sqlite").claim("one")
    with pytest.raises(RunFolderError, match="holds runs of other settings"):
        Store(tmp_path / "run.sqlite").claim("two")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_text("this is no database, and long enough to look at" * 30)
    with pytest.raises(RunFolderError, match="is damaged"):
        Store(tmp_path / "run.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as database:
        database.execute("CREATE TABLE scores (something TEXT)")
    with pytest.raises(RunFolderError, match="is a database, but not a run store"):
        Store(tmp_path / "other.sqlite")


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own page limit stands in for a disk without room."""
    store = Store(tmp_path / "run.sqlite")
    store.add([a_score("kept")])
    store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(RunFolderError, match="make room and rerun the same command"):
        store.add([a_score(f"arch{i}", losses=np.zeros(2000, np.float32)) for i in range(20)])
    store.close()
    assert Store(tmp_path / "run.sqlite").scores()["arch"].tolist() == ["kept"]


def test_the_file_is_plain_sqlite(tmp_path: Path) -> None:
    Store(tmp_path / "run.sqlite").add([a_score()])
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    assert connection.execute("SELECT sotl FROM scores").fetchone() == (20.25,)
    connection.close()


def test_a_store_that_was_half_made_is_made_whole(tmp_path: Path) -> None:
    """As a full disk left one: some tables, and no owner."""
    Store(tmp_path / "whole.sqlite").close()
    with sqlite3.connect(tmp_path / "whole.sqlite") as database:
        for table in ("owner", "stages", "sets"):
            database.execute(f"DROP TABLE {table}")
    store = Store(tmp_path / "whole.sqlite")
    store.claim("settings")
    store.add([a_score()])
    assert len(store.scores()) == 1


SOME_ROOM = """
import resource, sys
from pathlib import Path
from proxynas.core.errors import RunFolderError
from proxynas.search.store import Store
from signal import SIG_IGN, SIGXFSZ, signal
signal(SIGXFSZ, SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Store(Path(sys.argv[1]))
except RunFolderError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store = Store(Path(sys.argv[1]))
store.claim("settings")
print("made")
"""


@pytest.mark.parametrize("room", [0, 1000, 4096, 10_000, 20_000, 40_000])
def test_where_a_full_disk_stopped_the_making_it_is_made_later(tmp_path: Path, room: int) -> None:
    python = [sys.executable, "-c", SOME_ROOM, str(tmp_path / "run.sqlite"), str(room)]
    lines = subprocess.run(python, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "made"
    assert all("cannot open the run store" in line for line in lines[:-1])
