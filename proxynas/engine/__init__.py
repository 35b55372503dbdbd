"""Where tasks are done: processes of this machine, or a Ray cluster.

contract    what an engine is
local       processes of this machine, the default
cluster     Ray
choice      the one that a user asks for
dispatch    handing tasks to workers; what happens when one of them dies
sharing     tensors that travel once to a machine
devices     which GPU a worker computes on

>>> from proxynas.engine import LOCAL
>>> with LOCAL.opened(lambda: 10, workers=1) as mapped:
...     list(mapped(lambda context, task: context + task, [1, 2], lambda task, reason: -1))
[11, 12]

With more than one worker everything that is given must be picklable.
"""

from .contract import Engine, Mapper, Prepare
from .local import LOCAL, LocalProcesses

__all__ = ["LOCAL", "Engine", "LocalProcesses", "Mapper", "Prepare"]
