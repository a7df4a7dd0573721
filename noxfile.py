"""Development sessions: `nox` runs lint, types and tests, `nox -l` lists the rest; what follows `--` is passed on."""

import json
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
ALL_EXTRAS = ".[async,orders,postgresql]"
AT_ONCE = ("-n", "2", "--dist", "loadfile")
"""Two processes, each with servers of its own; `-- -n 0` runs everything in one, for a debugger."""


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the bundled order system as a user gets it: from an installed wheel, not from the checkout."""
    session.install(".[orders]")
    session.run("kafkasaga", "demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure everything against the hand-written ceiling; `-- --only relay` takes a part, `--peers` adds others."""
    session.install("-e", ALL_EXTRAS, *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break the order system on real servers for five minutes, and check it; `-- --minutes 60` takes longer."""
    session.install("-e", ALL_EXTRAS, *group("test"))
    session.run("python", "-m", "tests.faults.real", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Take out each line that keeps a promise, in a copy, and see its test fail; `-- --only A9` takes some."""
    session.install("-e", ALL_EXTRAS, *group("test"))
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def versions(session: nox.Session) -> None:
    """Test the store on each version of PostgreSQL from 14 to 18 (Linux on x86_64); `-- 14 18` takes some."""
    session.install("-e", ALL_EXTRAS, *group("test"))
    session.run("python", "-m", "tests.versions", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test everything: SQLite, PostgreSQL, embedded Kafka and real Kafka, as far as the machine has them."""
    session.install("-e", ALL_EXTRAS, *group("test"))
    session.run("pytest", *AT_ONCE, *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """Test what needs no server: unit and property tests."""
    session.install("-e", ALL_EXTRAS, *group("test"))
    session.run("pytest", *AT_ONCE, "tests/unit", "tests/property", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules, format and layers."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "src"})


@nox.session
def fmt(session: nox.Session) -> None:
    """Repair what can be repaired by itself: fixable rules and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", "--fix-only", ".")
    session.run("ruff", "format", ".")


@nox.session
def audit(session: nox.Session) -> None:
    """Look up every dependency that a user may get in the advisories; where these cannot be had, say so and pass."""
    session.install(ALL_EXTRAS)
    session.install(*group("audit"))
    report = Path(session.create_tmp()) / "audit.json"
    report.unlink(missing_ok=True)
    session.run("pip-audit", "--format", "json", "--output", str(report), success_codes=[0, 1], silent=True)
    found = json.loads(report.read_text())["dependencies"] if report.exists() else []
    looked_up = [one for one in found if "vulns" in one]
    bad = [f"{one['name']} {one['version']}: {fault['id']}" for one in looked_up for fault in one["vulns"]]
    if bad:
        session.error("known vulnerabilities:\n" + "\n".join(bad))
    if not looked_up:
        session.warn("DEPENDENCIES WERE NOT AUDITED: the advisories cannot be had from here")
    elif len(looked_up) < len(found):
        left_out = ", ".join(one["name"] for one in found if "vulns" not in one)
        session.warn(f"{len(looked_up)} dependencies audited, none vulnerable; NOT AUDITED: {left_out}")
    else:
        session.log(f"{len(looked_up)} dependencies audited, none vulnerable")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, both strict, and that both find exactly the marked mistakes."""
    session.install("-e", ALL_EXTRAS, *group("test"), *group("types"))
    session.run("mypy")
    session.run("pyright")
    session.run("pytest", "tests/typing")
