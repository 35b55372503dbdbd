"""Memory of a command and all its processes: python experiments/process_memory.py COMMAND…

Every fifth of a second, while the command runs, the proportional set sizes (PSS) of its processes
are added up: a page that n processes share counts 1/n in each. Printed are the highest sum, and of
that moment each process's PSS and what it shares with nobody (USS), in MiB.
"""

import subprocess
import sys
import time

import psutil

MIB = 2**20


def sizes(parent: psutil.Process) -> list[tuple[float, float]]:
    """PSS and USS in MiB of a process and all that it started; those that end meanwhile are out."""
    measured = []
    for process in [parent, *parent.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue
        measured.append((memory.pss / MIB, memory.uss / MIB))
    return measured


def main() -> None:
    """Run the command and print its highest moment."""
    command = subprocess.Popen(sys.argv[1:])
    highest: list[tuple[float, float]] = []
    while command.poll() is None:
        try:
            now = sizes(psutil.Process(command.pid))
        except psutil.NoSuchProcess:
            break
        if sum(pss for pss, _ in now) > sum(pss for pss, _ in highest):
            highest = now
        time.sleep(0.2)
    print(f"{sum(pss for pss, _ in highest):,.0f} MiB in all at most:")
    for pss, uss in highest:
        print(f"  PSS {pss:7,.0f}  USS {uss:7,.0f}")
    sys.exit(command.wait())


if __name__ == "__main__":
    main()
