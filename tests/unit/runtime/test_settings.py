"""Settings: read once, checked at once, and what is wrong is named by the variable that the operator set."""

import typing

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.settings import PREFIX, Settings, SettingsError, load


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "/bin", "RANGEBOARDX": "1"}) == Settings()


def test_a_variable_sets_the_setting_of_its_name() -> None:
    given_settings = load(
        {
            "RANGEBOARD_ACK_REPLICAS": "2",
            "RANGEBOARD_REDIS_NODES": "a:1,b:2",
            "RANGEBOARD_POINTS_SIGMA": "0.5",
            "RANGEBOARD_READS_OPEN": "false",
            "RANGEBOARD_LOG_FORMAT": "console",
        }
    )
    assert given_settings.ack_replicas == 2
    assert given_settings.redis_nodes == "a:1,b:2"
    assert given_settings.points_sigma == 0.5
    assert given_settings.reads_open is False
    assert given_settings.log_format == "console"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans(text: str, value: bool) -> None:
    assert load({"RANGEBOARD_READS_OPEN": text}).reads_open is value


@pytest.mark.parametrize("name", ["SHARD", "REDIS_NODE", "ACK-REPLICAS", "", "_SHARDS", "SETTINGS"])
def test_a_variable_that_sets_nothing_is_a_mistake(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name} is not a setting"):
        load({PREFIX + name: "1", "RANGEBOARD_SHARDS": "8"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHARDS", "many"),
        ("SHARDS", ""),
        ("SHARDS", "0"),
        ("SHARDS", "4097"),
        ("SHARDS", "8.5"),
        ("SHARDS", "null"),
        ("POINTS_SIGMA", "0"),
        ("POINTS_SIGMA", "wide"),
        ("POINTS_SIGMA", "nan"),
        ("POINTS_SIGMA", "inf"),
        ("READS_OPEN", "maybe"),
        ("LOG_LEVEL", "INFO"),
        ("WITHOUT_REPLICAS", "ignore"),
        ("API_PORT", "65536"),
        ("ACK_REPLICAS", "-1"),
        ("REQUEST_DEADLINE_MS", "10"),
        ("MAX_BODY_BYTES", "1e400"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({PREFIX + name: value})
    message = str(refused.value)
    assert message.startswith(f"{PREFIX}{name}: ")
    assert "\n" not in message
    assert len(message) > len(f"{PREFIX}{name}: "), "and it says why"


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load({}).shards = 8  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    """docs/settings.md is made of these."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    assert set(hints) == set(Settings.__struct_fields__)
    for name, hint in hints.items():
        (meta,) = hint.__metadata__
        assert meta.description, name


@given(
    st.builds(
        Settings,
        redis_nodes=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
        postgres_dsn=st.sampled_from(["postgresql://u:p%40ss@h:5432/db?sslmode=require", "null", "0", "true", ""]),
        ack_replicas=st.integers(0, 5),
        points_sigma=st.floats(0.001, 9.0),
        reads_open=st.booleans(),
        shards=st.integers(1, 4096),
        without_replicas=st.sampled_from(["continue", "refuse"]),
    )
)
@hypothesis_settings(deadline=None)
def test_a_child_process_gets_the_same_settings(chosen: Settings) -> None:
    environment = chosen.environment()
    assert load(environment) == chosen
    assert load({"PATH": "/bin", **environment}) == chosen
    assert all(name.startswith(PREFIX) and isinstance(value, str) for name, value in environment.items())
