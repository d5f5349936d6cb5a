"""Python that a model wrote, run in a process of its own with limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

SECONDS = 10
MEMORY = 1 << 30
FILES = 16 << 20
"""Bytes that a program may write, to its output or to files in its working directory."""
_READ = 1 << 16
"""Bytes of the output that are looked at; the model is shown less."""


def run_python(code: str, *, seconds: int = SECONDS, memory: int = MEMORY) -> str:
    """What a program printed, and the value of its last line. What went wrong is told in it; nothing is raised.

    It has no network, an empty working directory, and limits on time and memory (in bytes); what exactly is kept from
    it, python_child.py says.
    """
    with TemporaryDirectory(prefix="xtune-python-") as folder:
        output = Path(folder) / "output"
        work = Path(folder) / "work"
        work.mkdir()
        with open(output, "wb") as opened:
            limits = seconds, memory, FILES, os.getpid()
            child = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).with_name("python_child.py")), *map(str, limits)],
                stdin=subprocess.PIPE,
                stdout=opened,
                stderr=subprocess.STDOUT,
                cwd=work,
                env={"PATH": os.defpath, "HOME": str(work), "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,  # Ctrl-C at the terminal is for the chat, which then ends this
            )
            try:
                child.communicate(code.encode(errors="replace"), timeout=seconds)
                ended = ""
            except subprocess.TimeoutExpired:
                ended = f"Stopped after {seconds} seconds."
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        with open(output, "rb") as opened:
            text = opened.read(_READ).decode(errors="replace").strip()
    if not ended and child.returncode:
        ended = f"The program was ended (code {child.returncode}): it used more time or memory than it may."
    return "\n".join(filter(None, (text, ended))) or "(It printed nothing.)"
