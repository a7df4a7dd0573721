"""What ``import kafkasaga`` gives, and what it does not load."""

import subprocess
import sys

import pytest

import kafkasaga
from kafkasaga import testing

LIGHT = """
import sys
import kafkasaga
assert not [name for name in sys.modules if name.startswith("kafkasaga.testing")]
kafkasaga.scenario
assert "kafkasaga.testing" in sys.modules
"""


def test_what_only_tests_need_is_not_loaded_by_a_service() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LIGHT], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scenario_is_the_same_from_both_places() -> None:
    assert kafkasaga.scenario is testing.scenario


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert [name for name in kafkasaga.__all__ if not hasattr(kafkasaga, name)] == []
    assert sorted(kafkasaga.__all__) == sorted(set(kafkasaga.__all__))
    with pytest.raises(AttributeError, match="no attribute 'scenari'"):
        kafkasaga.scenari  # type: ignore[attr-defined]  # noqa: B018
