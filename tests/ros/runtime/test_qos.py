"""QoS profiles: rclpy's defaults, exceptions and compatibility rules."""

from __future__ import annotations

import pytest

from bevstack.ros.runtime import qos as q
from bevstack.ros.runtime.duration import Duration, Infinite


def test_defaults_of_a_profile() -> None:
    profile = q.QoSProfile(depth=7)
    assert profile.history == q.HistoryPolicy.KEEP_LAST
    assert profile.reliability == q.ReliabilityPolicy.RELIABLE
    assert profile.durability == q.DurabilityPolicy.VOLATILE
    assert profile.deadline == profile.lifespan == profile.liveliness_lease_duration == Duration()
    assert profile.liveliness == q.LivelinessPolicy.SYSTEM_DEFAULT
    assert not profile.avoid_ros_namespace_conventions


def test_incomplete_profiles_are_refused() -> None:
    with pytest.raises(q.InvalidQoSProfileException, match="History and/or depth"):
        q.QoSProfile()
    with pytest.raises(q.InvalidQoSProfileException, match="without a depth"):
        q.QoSProfile(history=q.HistoryPolicy.KEEP_LAST)
    assert q.QoSProfile(history=q.HistoryPolicy.KEEP_ALL).history == q.HistoryPolicy.KEEP_ALL
    with pytest.raises(AssertionError, match="detph"):
        q.QoSProfile(depth=1, detph=2)
    with pytest.raises(AssertionError, match="deadline must be a Duration"):
        q.QoSProfile(depth=1, deadline=3)
    with pytest.warns(UserWarning, match="zero depth"):
        q.QoSProfile(depth=0)


def test_presets() -> None:
    sensor = q.qos_profile_sensor_data
    assert (sensor.depth, sensor.reliability, sensor.durability) == (
        5,
        q.ReliabilityPolicy.BEST_EFFORT,
        q.DurabilityPolicy.VOLATILE,
    )
    assert q.qos_profile_parameters.depth == q.qos_profile_parameter_events.depth == 1000
    assert q.qos_profile_action_status_default.durability == q.DurabilityPolicy.TRANSIENT_LOCAL
    assert q.qos_profile_system_default.reliability == q.ReliabilityPolicy.SYSTEM_DEFAULT
    assert q.QoSPresetProfiles.get_from_short_key("sensor_data") is sensor
    assert q.QoSPresetProfiles.SENSOR_DATA.value is sensor
    assert q.QoSPresetProfiles["SERVICES_DEFAULT"] is q.QoSPresetProfiles.DEFAULT
    assert "best_available" in q.QoSPresetProfiles.short_keys()


def test_short_keys() -> None:
    assert q.ReliabilityPolicy.get_from_short_key("best_effort") is q.ReliabilityPolicy.BEST_EFFORT
    assert q.DurabilityPolicy.TRANSIENT_LOCAL.short_key == "transient_local"
    assert q.LivelinessPolicy.short_keys() == ["system_default", "automatic", "manual_by_topic", "unknown", "best_available"]
    assert q.qos_policy_name_from_kind(16) == "RELIABILITY"
    assert q.qos_policy_name_from_kind(12345) == "INVALID"


def test_depth_shorthand() -> None:
    assert q.as_qos_profile(3) == q.QoSProfile(depth=3)
    profile = q.QoSProfile(depth=1)
    assert q.as_qos_profile(profile) is profile
    with pytest.raises(ValueError, match="greater than or equal"):
        q.as_qos_profile(-1)
    with pytest.raises(TypeError, match="Expected QoSProfile or int"):
        q.as_qos_profile("10")


RELIABLE, BEST_EFFORT = q.QoSProfile(depth=1), q.qos_profile_sensor_data
LATCHED = q.QoSProfile(depth=1, durability=q.DurabilityPolicy.TRANSIENT_LOCAL)
MANUAL = q.QoSProfile(depth=1, liveliness=q.LivelinessPolicy.MANUAL_BY_TOPIC)
AUTOMATIC = q.QoSProfile(depth=1, liveliness=q.LivelinessPolicy.AUTOMATIC)


def deadline(seconds: float) -> q.QoSProfile:
    return q.QoSProfile(depth=1, deadline=Duration(seconds=seconds))


def lease(seconds: float) -> q.QoSProfile:
    return q.QoSProfile(depth=1, liveliness_lease_duration=Duration(seconds=seconds))


@pytest.mark.parametrize(
    ("publisher", "subscription", "verdict", "words"),
    [
        (RELIABLE, BEST_EFFORT, q.QoSCompatibility.OK, ""),
        (BEST_EFFORT, RELIABLE, q.QoSCompatibility.ERROR, "Best effort publisher and reliable subscription"),
        (LATCHED, RELIABLE, q.QoSCompatibility.OK, ""),
        (RELIABLE, LATCHED, q.QoSCompatibility.ERROR, "Volatile publisher and transient local"),
        (BEST_EFFORT, LATCHED, q.QoSCompatibility.ERROR, "; ERROR: Volatile"),
        (RELIABLE, deadline(1), q.QoSCompatibility.ERROR, "publisher does not"),
        (deadline(2), deadline(1), q.QoSCompatibility.ERROR, "less than publisher deadline"),
        (deadline(1), deadline(2), q.QoSCompatibility.OK, ""),
        (deadline(1), RELIABLE, q.QoSCompatibility.OK, ""),
        (AUTOMATIC, MANUAL, q.QoSCompatibility.ERROR, "manual by topic"),
        (MANUAL, AUTOMATIC, q.QoSCompatibility.OK, ""),
        (RELIABLE, MANUAL, q.QoSCompatibility.WARNING, "system_default"),
        (RELIABLE, lease(1), q.QoSCompatibility.ERROR, "lease duration, but publisher does not"),
        (lease(2), lease(1), q.QoSCompatibility.ERROR, "less than publisher lease"),
        (q.qos_profile_system_default, LATCHED, q.QoSCompatibility.WARNING, "Transient local subscription"),
        (BEST_EFFORT, q.qos_profile_system_default, q.QoSCompatibility.WARNING, "Best effort publisher"),
        (q.qos_profile_best_available, LATCHED, q.QoSCompatibility.OK, ""),
        (BEST_EFFORT, q.qos_profile_best_available, q.QoSCompatibility.OK, ""),
    ],
)
def test_compatibility(publisher: q.QoSProfile, subscription: q.QoSProfile, verdict: q.QoSCompatibility, words: str) -> None:
    found, reason = q.qos_check_compatible(publisher, subscription)
    assert found == verdict
    assert words in reason
    assert bool(reason) == bool(words)


def test_durations() -> None:
    assert Duration(seconds=1.5).nanoseconds == 1_500_000_000
    assert Duration(seconds=1, nanoseconds=1) > Duration(seconds=1)
    assert Duration.from_msg(Duration(seconds=-0.5).to_msg()) == Duration(seconds=-0.5)
    assert str(Infinite) == "Infinite"
    assert Duration(seconds=1) != 1_000_000_000
    with pytest.raises(OverflowError):
        Duration(seconds=10**10)
    with pytest.raises(TypeError):
        Duration.from_msg(1)
    with pytest.raises(TypeError):
        _ = Duration() < 3
