"""Every error that a user can cause.

The command line prints one of these as a single line and exits with code 2; anything else that
escapes is a bug and keeps its traceback. A message says what was expected, what came, and what to
do.
"""

STOPPED = "stopped; rerun the same command to resume"
"""What Ctrl-C ends with."""


def out_of_memory(error: BaseException) -> bool:
    """Whether it, or what it was raised from, says that memory is full: Python's error, or
    PyTorch's, which has no class for a CPU."""
    if isinstance(error, MemoryError) or any(said in str(error) for said in OUT_OF_MEMORY):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class ProxynasError(Exception):
    """Base of all errors that a user can cause and fix."""


class SpecError(ProxynasError):
    """A flag, a TOML file or an argument is unknown, malformed or out of range."""


class DataError(ProxynasError):
    """A dataset is missing, unreadable or unusable."""


class SpaceError(ProxynasError):
    """A search space or an architecture string is unknown or malformed."""


class NetworkError(ProxynasError):
    """A network does not take the data's inputs, or does not give a logit for each class."""


class ProxyFileError(ProxynasError):
    """A proxy-set file is truncated, foreign or tampered with."""


class RunFolderError(ProxynasError):
    """A run directory cannot be written, or belongs to another run."""


class TruthError(ProxynasError):
    """A ground-truth table is missing, malformed or does not belong to this dataset or space."""


class DeviceError(ProxynasError):
    """The device asked for is not there."""


class WorkerError(ProxynasError):
    """A worker process died."""


class DivergedError(ProxynasError):
    """A loss or a distilled set stopped being finite."""
