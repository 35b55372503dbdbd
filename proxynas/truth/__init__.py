"""Ground truth: tables of what candidates reach on the whole data.

:func:`find` gives a table that ships, :func:`read` any CSV file; :mod:`proxynas.truth.measure`
measures one, :mod:`proxynas.truth.importing` makes one of others' measurements.

>>> from proxynas import truth
>>> table = truth.find("convnet-grid", "digits")
>>> accuracy = table.accuracy()
>>> len(accuracy), accuracy.idxmax(), round(float(accuracy.max()), 3)
(720, 'D4-W256-leakyrelu-batchnorm-maxpooling', 0.997)
"""

from .table import COLUMNS, FORMAT, TruthTable, find, read

__all__ = ["COLUMNS", "FORMAT", "TruthTable", "find", "read"]
