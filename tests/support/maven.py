"""What Maven fetches for the tests: copied once, kept in the user's cache directory."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.process import UnavailableError

FETCH_SECONDS = 600.0
MAVEN_TAIL = 15  # lines of Maven's output in an error message


def cache_directory() -> Path:
    """Where things are kept, also between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kafkasaga"


def missing() -> str | None:
    """Why nothing can be fetched; None when it can."""
    return "PATH has no mvn" if shutil.which("mvn") is None else None


def is_there(pom: Path, directory: Path) -> bool:
    """Whether the directory holds what this pom names; the pom is copied last."""
    with suppress(FileNotFoundError):
        return (directory / pom.name).read_bytes() == pom.read_bytes()
    return False


def fetched(what: str, pom: Path, directory: Path, goal: str = "copy-dependencies") -> Path:
    """The directory, with all that the pom names; `UnavailableError` when that cannot be fetched.

    `goal` is that of Maven's dependency plugin; of one thing in several versions it is "copy".
    """
    if not is_there(pom, directory):
        if reason := missing():
            raise UnavailableError(f"no Maven to fetch {what} with: {reason}")
        _fetch(what, pom, directory, goal)
    return directory


def _fetch(what: str, pom: Path, directory: Path, goal: str) -> None:
    """Fetch into a directory beside, then rename: several test runs may do so at once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetching-") as name:
        copied = Path(name) / "copied"
        command = ["mvn", "-q", "-B", "-f", str(pom), f"dependency:{goal}", f"-DoutputDirectory={copied}"]
        try:
            maven = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"Maven did not fetch {what} within {FETCH_SECONDS:.0f} s") from None
        if maven.returncode != 0:
            output = "\n".join(maven.stdout.splitlines()[-MAVEN_TAIL:])
            raise UnavailableError(f"Maven could not fetch {what}:\n{output}")
        shutil.copy(pom, copied)
        _replace(pom, directory, copied)


def _replace(pom: Path, directory: Path, copied: Path) -> None:
    try:
        copied.rename(directory)
    except OSError:
        if is_there(pom, directory):  # another run was faster
            return
        shutil.rmtree(directory)
        copied.rename(directory)
