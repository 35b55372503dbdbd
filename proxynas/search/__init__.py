"""Scoring candidates: each is trained on every source of data, and all that its training gives is
kept.

run         what is wanted, scored where the store does not have it yet
score       one candidate on one source
store       the run store: one row per (source, candidate, seed)
zerocost    indicators that take no training
strategies  which candidates come next
sources     the sources that every report knows

>>> import tempfile
>>> from pathlib import Path
>>> from proxynas import datasets, spaces
>>> from proxynas.search.run import Wanted, run
>>> from proxynas.search.score import Source, Work
>>> from proxynas.search.store import Store
>>> from proxynas.specs import Recipe
>>> digits = datasets.load("digits")
>>> source = Source("random", digits.train.x[:100], digits.train.y[:100], Recipe(updates=5))
>>> work = Work(spaces.load("convnet-grid"), digits, {"random": source}, seed=0)
>>> wanted = Wanted(["D1-W32-relu-none-avgpooling"], ["random"], replicas=[0, 1])
>>> with tempfile.TemporaryDirectory() as folder:
...     store = Store(Path(folder) / "run.sqlite")
...     added = run(store, wanted, lambda: work, workers=1)
...     again = run(store, wanted, lambda: work, workers=1)
...     added, again, list(store.scores()["seed"])
(2, 0, [0, 1])

With more than one worker, or on another :mod:`~proxynas.engine`, the function that makes the
:class:`~proxynas.search.score.Work` must be picklable.
"""
