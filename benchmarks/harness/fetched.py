"""What a peer needs, fetched on demand: into the user's cache directory, never into the project's environment."""

from __future__ import annotations

import hashlib
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
        _need("npm", f"fetches {package}: install Node.js")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Without the packages' own scripts: one of them reports the installation to its vendor.
        options = ["--ignore-scripts", "--no-fund", "--no-audit", "--no-save", "--loglevel", "error"]
        _install(name, ["npm", "install", "--prefix", str(folder), *options, package])
        _note(folder, [package])
    return folder / "node_modules"


def go_program(name: str, source: Path) -> Path:
    """The program that is built from a folder's Go files; UnavailableError if it cannot be."""
    folder, wanted = cache_directory(name), [_digest(source)]
    program = folder / name
    if not _holds(folder, wanted):
        _need("go", f"builds {name}: install Go")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install(name, ["go", "build", "-C", str(source), "-buildvcs=false", "-trimpath", "-o", str(program), "."])
        _note(folder, wanted)
    return program


def java_program(name: str, source: Path) -> str:
    """The class path of a folder's Java files and of what its ``pom.xml`` names; UnavailableError without them."""
    folder, wanted = cache_directory(name), [_digest(source)]
    jars, classes = folder / "jars", folder / "classes"
    class_path = f"{classes}{os.pathsep}{jars}/*"
    if not _holds(folder, wanted):
        _need("mvn", f"fetches {name}: install Maven")
        _need("javac", f"compiles {name}: install a JDK, 17 or newer")
        shutil.rmtree(folder, ignore_errors=True)
        classes.mkdir(parents=True)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        _install(name, ["mvn", "-q", "-B", "-f", str(source / "pom.xml"), *goal])
        _install(name, ["javac", "-cp", class_path, "-d", str(classes), *map(str, sorted(source.glob("*.java")))])
        _note(folder, wanted)
    return class_path


def _need(tool: str, why: str) -> None:
    if shutil.which(tool) is None:
        raise UnavailableError(f"{tool} is missing, which {why}")


def _digest(source: Path) -> str:
    """Changes when a source does."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


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
