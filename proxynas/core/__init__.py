"""What every stage stands on and none owns.

errors       every error that a user can cause
settings     frozen dataclasses to TOML and back, flags over files
seeds        a random stream for each purpose, derived from one seed by name
files        files written whole or not at all
rundir       a run directory, which belongs to one spec
progress     progress callbacks
hardware     the device and its peak memory
extras       packages that only some of proxynas needs
resources    where the data that ship lie
torchvision  the one import of torchvision

>>> from proxynas.core import seeds, settings
>>> seeds.derive(0, "candidates") == seeds.derive(0, "dropout")
False
>>> settings.merge({"ipc": 1, "settings": {"lr": 0.1}}, {"ipc": 10, "settings": {"init": "real"}})
{'ipc': 10, 'settings': {'lr': 0.1, 'init': 'real'}}
"""
