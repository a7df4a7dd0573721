"""What a peer needs, fetched on demand: into the user's cache directory, never into the project's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.process import UnavailableError

ERROR_TAIL = 5
"""Lines of what an installer said."""


def cache_directory(name: str) -> Path:
    """The folder in which a peer's things are kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kafkasaga" / "bench" / name


def virtual_environment(name: str, *requirements: str) -> Path:
    """The Python of an environment that holds exactly these packages; UnavailableError if they cannot be had."""
    folder = cache_directory(name)
    python = folder / "bin" / "python"
    if not _holds(folder, requirements):
        shutil.rmtree(folder, ignore_errors=True)
        _install(name, [sys.executable, "-m", "venv", str(folder)])
        _install(name, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
        _note(folder, requirements)
    return python


def npm_package(name: str, package: str) -> Path:
    """The ``node_modules`` that holds a package; UnavailableError if it cannot be had."""
    folder = cache_directory(name)
    if not _holds(folder, [package]):
        if shutil.which("npm") is None:
            raise UnavailableError(f"npm is missing, which fetches {package}: install Node.js")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Without the packages' own scripts: one of them reports the installation to its vendor.
        options = ["--ignore-scripts", "--no-fund", "--no-audit", "--no-save", "--loglevel", "error"]
        _install(name, ["npm", "install", "--prefix", str(folder), *options, package])
        _note(folder, [package])
    return folder / "node_modules"


def _holds(folder: Path, wanted: Sequence[str]) -> bool:
    stamp = folder / "fetched.txt"
    return stamp.exists() and stamp.read_text().split() == list(wanted)


def _note(folder: Path, wanted: Sequence[str]) -> None:
    """Last of all, so that what was interrupted is fetched again."""
    (folder / "fetched.txt").write_text("\n".join(wanted) + "\n")


def _install(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-ERROR_TAIL:])
        raise UnavailableError(f"{name} cannot be fetched: {said}")
