"""Settings from the environment: right, wrong, unknown."""

import os

import pytest

from kafkasaga.errors import ConfigurationError
from kafkasaga.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("KAFKASAGA_"):
            monkeypatch.delenv(name)


def test_fields_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKASAGA_DATABASE_URL", "sqlite:///x")
    monkeypatch.setenv("KAFKASAGA_KAFKA", '{"linger.ms": 5, "check.crcs": true}')
    settings = Settings.load()
    assert settings.database_url.get_secret_value() == "sqlite:///x"
    assert settings.kafka == {"linger.ms": 5, "check.crcs": True}


def test_overrides_win_and_none_is_no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKASAGA_BOOTSTRAP_SERVERS", "env:1")
    assert Settings.load(bootstrap_servers="mine:1").bootstrap_servers == "mine:1"
    assert Settings.load(bootstrap_servers=None).bootstrap_servers == "env:1"


def test_unknown_variable_is_told_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKASAGA_BOOTSTRAP_SERVER", "x:1")
    with pytest.raises(ConfigurationError, match="did you mean KAFKASAGA_BOOTSTRAP_SERVERS"):
        Settings.load()


def test_variable_of_the_test_suite_is_not_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings.load()
    monkeypatch.setenv("KAFKASAGA_REQUIRE", "all")
    assert Settings.load() == before


def test_unknown_override_is_told() -> None:
    with pytest.raises(ConfigurationError, match="databas_url= is not a setting; did you mean database_url"):
        Settings.load(databas_url="x")


def test_all_that_is_wrong_is_told_at_once_under_the_variables_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKASAGA_BATCH_SIZE", "many")
    monkeypatch.setenv("KAFKASAGA_LOG_FORMAT", "xml")
    monkeypatch.setenv("KAFKASAGA_NONSENSE", "1")
    with pytest.raises(ConfigurationError) as error:
        Settings.load(topic_partitions=0)
    text = str(error.value)
    assert "KAFKASAGA_BATCH_SIZE is wrong: input should be a valid integer" in text
    assert "KAFKASAGA_LOG_FORMAT is wrong" in text
    assert "KAFKASAGA_NONSENSE is not a setting" in text
    assert "topic_partitions= is wrong" in text


@pytest.mark.parametrize("value", ["linger.ms=5", "[1]"])
def test_raw_mapping_that_is_no_json_object_is_told_with_an_example(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("KAFKASAGA_KAFKA", value)
    with pytest.raises(ConfigurationError, match="KAFKASAGA_KAFKA"):
        Settings.load()


def test_secrets_are_not_shown() -> None:
    settings = Settings.load(database_url="postgresql://u:hush@h/d", kafka={"sasl.password": "hush"})
    assert "hush" not in repr(settings)
    with pytest.raises(ConfigurationError) as error:
        Settings.load(database_url="postgresql://u:hush@h/d", kafka={"sasl.password": "hush"}, batch_size=0)
    assert "hush" not in str(error.value)
