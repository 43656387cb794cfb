"""Compiles C++ to shared libraries: in the background, once a machine, kept on disk for later processes.

A library is found by the hash of everything that it is made from: its text, the headers, the flags, the compiler and the processor. Without
a compiler, or when compiling fails, there is no library, callers use plain torch, and `problem()` says why.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "source"

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-shared", "-fPIC")

_TIME_LIMIT_S = 300.0
"""A network for 128 rows takes some 10 s on a slow machine; far beyond that something is stuck."""


class _Build:
    """One library on its way."""

    def __init__(self, text: str, flags: tuple[str, ...]) -> None:
        self.library: ctypes.CDLL | None = None
        self.done = threading.Event()
        threading.Thread(target=self._run, args=(text, flags), name="mottle-compile", daemon=True).start()

    def _run(self, text: str, flags: tuple[str, ...]) -> None:
        try:
            self.library = ctypes.CDLL(str(_compiled(text, flags)))
        except (OSError, subprocess.SubprocessError) as error:
            _problems.append(f"{error}{_last_line(error)}")
        finally:
            self.done.set()


_builds: dict[str, _Build] = {}
_lock = threading.Lock()
_problems: list[str] = []
_enabled = True


@contextmanager
def disabled() -> Iterator[None]:
    """Within it there are no compiled kernels, as on a machine without a compiler; for tests and benchmarks."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def settle() -> None:
    """Wait for everything that is being compiled."""
    for build in list(_builds.values()):
        build.done.wait()


def request(text: str, *, contract: bool = False, threads: bool = False) -> ctypes.CDLL | None:
    """The library of a source text if it is there already; otherwise None, and it is made in the background.

    Args:
        contract: let the compiler fuse multiplications and additions.
        threads: the text uses OpenMP; its pool is the one that torch has loaded, which has the same name.
    """
    return _build(text, _flags(contract, threads)).library if _enabled else None


def wait(text: str, *, contract: bool = False) -> ctypes.CDLL | None:
    """The library of a source text; None where it cannot be made."""
    if not _enabled:
        return None
    build = _build(text, _flags(contract, threads=False))
    build.done.wait()
    return build.library


def problem() -> str | None:
    """Why compiled kernels are missing, if any is."""
    return _problems[-1] if _problems else None


def _flags(contract: bool, threads: bool) -> tuple[str, ...]:
    return (*_FLAGS, f"-ffp-contract={'fast' if contract else 'off'}", *(["-fopenmp"] if threads else []), f"-I{SOURCES}")


def _build(text: str, flags: tuple[str, ...]) -> _Build:
    with _lock:
        if text not in _builds:
            _builds[text] = _Build(text, flags)
        return _builds[text]


@cache
def source(name: str) -> str:
    """Text of one of the package's own C++ files."""
    return (SOURCES / name).read_text()


def _compiled(text: str, flags: tuple[str, ...]) -> Path:
    """Path of the library, compiled now unless it is on disk.

    Raises:
        OSError: no compiler, or no folder to write to; subprocess.SubprocessError: compiling failed.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise OSError("no C++ compiler (g++ or clang++) on the path; kernels run in plain torch, several times slower")
    made_from = "\0".join([text, *(header.read_text() for header in sorted(SOURCES.glob("*.h"))), *flags, _machine(compiler)])
    path = _folder() / f"{hashlib.sha256(made_from.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / "kernel.so"
            command = [compiler, *flags, "-x", "c++", "-", "-o", str(made)]
            subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=_TIME_LIMIT_S)
            os.replace(made, path)  # another process may have been faster; either file will do
    return path


@cache
def _machine(compiler: str) -> str:
    """What a compiled library depends on besides its text."""
    version = subprocess.run([compiler, "--version"], text=True, check=True, capture_output=True, timeout=_TIME_LIMIT_S).stdout
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return "\0".join([version, platform.machine(), features])


@cache
def _folder() -> Path:
    """Where libraries are kept: the user's cache, or a folder of this process where there is none to write to."""
    folder = Path.home() / ".cache" / "mottle" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mottle-kernels-"))


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or ""
    return f": {text.strip().splitlines()[-1]}" if text.strip() else ""
