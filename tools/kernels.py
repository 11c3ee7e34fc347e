"""Kernels that share nothing with other kernels of the machine.

Jupyter looks for five free TCP ports, lets go of them, and has the new kernel open them a second later. Two programs that start kernels at the same
time, such as two chapters, or the book beside the tests, can so be given the same port; the second kernel then dies before its first cell.
Sockets that are files in a folder of one's own cannot collide, and nobody else on the machine can reach them.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_sockets() -> Iterator[dict]:
    "Settings for nbclient's `NotebookClient(config=Config(…))`: sockets in a temporary folder. Empty on Windows, which has TCP only."
    if os.name == "nt":
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True) as folder:
        yield {"KernelManager": {"transport": "ipc", "ip": str(Path(folder) / "socket")}}
