#!/usr/bin/env python3
"""Create or refresh .venv: `python3 tools/environment.py`. Does nothing when the pins have not changed since the last time.

PyTorch comes from its own index of builds for processors without a GPU when that answers, else from wherever pip looks. TORCH=cuda takes pip's own
choice, which on Linux is the build for NVIDIA GPUs (several GB). TORCH=https://… names another index.
"""

import hashlib
import os
import re
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv"
PYTHON = HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = HOME / ".minillm-ready"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def fingerprint() -> str:
    "Changes when the environment must be made anew."
    parts = [sys.version, os.environ.get("TORCH", "cpu"), str(ROOT)]
    parts += [(ROOT / name).read_text(encoding="utf-8") for name in ("constraints.txt", "pyproject.toml")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def answers(index: str) -> bool:
    "Whether a package index can be reached within a few seconds and has torch."
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=8) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False


def torch_index() -> list[str]:
    "pip options that choose the build of PyTorch."
    choice = os.environ.get("TORCH", "cpu")
    if choice == "cuda" or sys.platform == "darwin":
        return []
    index = CPU_INDEX if choice == "cpu" else choice
    if answers(index):
        return ["--index-url", index, "--extra-index-url", "https://pypi.org/simple"]
    print(f"  {index} is out of reach: taking PyTorch from wherever pip looks (set TORCH to another index, or to cuda)")
    return []


def pip(*arguments: str) -> None:
    "Run pip quietly: errors are printed, warnings about this machine's configuration are not."
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit(f"installation failed at: pip install {' '.join(arguments)}\n(with a proxy or a mirror, set PIP_INDEX_URL)")


def main() -> None:
    if sys.version_info < (3, 11):
        raise SystemExit(f"minillm needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12")
    mark = fingerprint()
    if STAMP.exists() and STAMP.read_text(encoding="utf-8") == mark:
        return
    print(f"making {HOME.name} (Python {sys.version.split()[0]}; two to five minutes, about 2 GB) …", flush=True)
    if not PYTHON.exists():
        venv.create(HOME, with_pip=True)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch = re.search(r"^torch==\S+", pins, re.M)
    pip("-c", "constraints.txt", "setuptools", "wheel")
    pip("-c", "constraints.txt", *torch_index(), torch[0] if torch else "torch")
    pip("-c", "constraints.txt", "--no-build-isolation", "-e", ".[dev]")
    STAMP.write_text(mark, encoding="utf-8")


if __name__ == "__main__":
    main()
