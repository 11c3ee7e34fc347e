"""Kernels that share nothing with other kernels of the machine.

Jupyter looks for five free TCP ports, lets go of them, and has the new kernel open them a second later. Two programs that start kernels at the same
time, such as two chapters, or the book beside the tests, can so be given the same port; the second kernel then dies before its first cell.
Sockets that are files in a folder of one's own cannot collide, and nobody else on the machine can reach them.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from nbformat import NotebookNode


def run_notebook(notebook: NotebookNode, folder: Path, **options: Any) -> None:
    "Run all cells in a kernel of their own, at work in `folder`; they get their outputs. Options and errors are those of nbclient's NotebookClient."
    from nbclient import NotebookClient
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True) as sockets:
        own = {"transport": "ipc", "ip": str(Path(sockets) / "socket")} if os.name != "nt" else {}  # Windows has TCP only
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, config=Config(KernelManager=own), kernel_name="python3", resources=where, **options).execute()
