"""proxynas: rank neural architectures on a distilled proxy set, and say how far the ranking can be
trusted."""

__version__ = "0.1.0"
