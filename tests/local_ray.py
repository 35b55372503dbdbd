"""A small Ray on this machine, for tests: two cores, nothing of it stays."""

import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def started() -> Iterator[None]:
    """Ray, until the end of the block."""
    ray = pytest.importorskip("ray", reason="pip install 'proxynas[ray]'")
    pytest.importorskip("ray.tune", reason="pip install 'proxynas[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AIR_NEW_OUTPUT", "0")
        patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        patch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "2")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: other work would stop them
        paths = ":".join(path for path in sys.path if path)  # workers see what this process sees
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
        try:
            yield
        finally:
            ray.shutdown()
            with warnings.catch_warnings():  # of Ray's processes, whose handles it drops
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


WARNINGS = (
    *("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    *("ignore::UserWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""Filters for what Ray warns of in its own code."""
