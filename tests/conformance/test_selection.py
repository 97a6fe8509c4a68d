"""Which runtime is chosen, and that both offer the same names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bevstack.errors import BevstackError
from bevstack.ros.runtime import choose_runtime

_HAS_RCLPY = choose_runtime("auto")[0] == "rclpy"


def test_unknown_choice_names_the_choices() -> None:
    with pytest.raises(BevstackError, match="auto, rclpy or embedded"):
        choose_runtime("ros1")


def test_embedded_can_be_forced() -> None:
    assert choose_runtime("embedded") == ("embedded", "BEVSTACK_ROS=embedded")


@pytest.mark.skipif(_HAS_RCLPY, reason="rclpy is installed")
def test_rclpy_demanded_but_absent_says_what_to_do() -> None:
    with pytest.raises(BevstackError, match=r"source ROS 2's setup\.bash"):
        choose_runtime("rclpy")
    runtime, reason = choose_runtime("auto")
    assert runtime == "embedded"
    assert "rclpy does not import" in reason


#: Modules that native.py imports, with the names that it takes from each. Written down here by hand, from the ROS packages.
_FAKE = {
    "rclpy": [
        "SignalHandlerOptions",
        "create_node",
        "get_default_context",
        "get_global_executor",
        "get_rmw_implementation_identifier",
        "init",
        "install_signal_handlers",
        "ok",
        "shutdown",
        "spin",
        "spin_once",
        "spin_until_future_complete",
        "try_shutdown",
        "uninstall_signal_handlers",
    ],
    "rclpy._rclpy_pybind11": ["RCLError"],
    "rclpy.callback_groups": ["CallbackGroup", "MutuallyExclusiveCallbackGroup", "ReentrantCallbackGroup"],
    "rclpy.client": ["Client"],
    "rclpy.clock": ["Clock", "ClockChange", "ClockType", "JumpThreshold", "ROSClock", "TimeJump"],
    "rclpy.context": ["Context"],
    "rclpy.duration": ["Duration"],
    "rclpy.event_handler": ["PublisherEventCallbacks", "SubscriptionEventCallbacks"],
    "rclpy.exceptions": ["InvalidHandle"],
    "rclpy.executors": ["Executor", "ExternalShutdownException", "MultiThreadedExecutor", "SingleThreadedExecutor"],
    "rclpy.guard_condition": ["GuardCondition"],
    "rclpy.lifecycle": ["LifecycleNode", "LifecyclePublisher", "LifecycleState", "State", "TransitionCallbackReturn"],
    "rclpy.logging": ["LoggingSeverity", "get_logger"],
    "rclpy.node": ["Node"],
    "rclpy.parameter": ["Parameter", "parameter_value_to_python"],
    "rclpy.publisher": ["Publisher"],
    "rclpy.qos": [
        "DurabilityPolicy",
        "HistoryPolicy",
        "LivelinessPolicy",
        "QoSCompatibility",
        "QoSPolicyKind",
        "QoSPresetProfiles",
        "QoSProfile",
        "ReliabilityPolicy",
        "qos_check_compatible",
        "qos_profile_parameter_events",
        "qos_profile_parameters",
        "qos_profile_sensor_data",
        "qos_profile_services_default",
        "qos_profile_system_default",
    ],
    "rclpy.qos_overriding_options": ["QoSOverridingOptions"],
    "rclpy.serialization": ["deserialize_message", "serialize_message"],
    "rclpy.service": ["Service"],
    "rclpy.subscription": ["Subscription"],
    "rclpy.task": ["Future", "Task"],
    "rclpy.time": ["Time"],
    "rclpy.timer": ["Rate", "Timer"],
    "rcl_interfaces": [],
    "rcl_interfaces.msg": ["FloatingPointRange", "IntegerRange", "ParameterDescriptor", "SetParametersResult"],
    "tf2_ros": [],
    "message_filters": [],
    "diagnostic_updater": [],
    "std_msgs": [],
    "std_msgs.msg": ["String"],
}


def _fake_ros(folder: Path) -> None:
    packages = {name.split(".")[0] for name in _FAKE}
    for module, names in _FAKE.items():
        parts = module.split(".")
        path = folder / parts[0] / ("__init__.py" if len(parts) == 1 else f"{parts[1]}.py")
        path.parent.mkdir(exist_ok=True)
        lines = [f"class {name}:\n    origin = '{module}.{name}'" for name in names]
        if module == "rclpy.qos":
            lines.append("QoSPresetProfiles.DEFAULT = type('Member', (), {'value': 'default profile'})")
        path.write_text("\n".join(lines) + "\n")
    assert packages


_PROBE = """
    import json, sys
    import bevstack.ros.runtime as ros
    where = {name: getattr(getattr(ros, name), "origin", str(getattr(ros, name))) for name in ros.__all__}
    try:
        ros.messages("no_such_msgs/msg/Thing")
        error = ""
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps({
        "runtime": ros.RUNTIME, "reason": ros.RUNTIME_REASON, "names": sorted(ros.__all__), "where": where, "error": error,
        "string": ros.messages("std_msgs/msg/String").origin if ros.RUNTIME == "rclpy" else "",
        "finder": any("bevstack" in type(finder).__module__ for finder in sys.meta_path),
        "torch": "torch" in sys.modules,
    }))
"""


def _probe(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROBE)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(_HAS_RCLPY, reason="rclpy is installed, no fake is needed")
def test_an_installed_rclpy_is_used_and_offers_the_same_names(tmp_path: Path) -> None:
    _fake_ros(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    native = _probe(PYTHONPATH=path, BEVSTACK_ROS="auto")
    embedded = _probe(PYTHONPATH=path, BEVSTACK_ROS="embedded")
    assert (native["runtime"], embedded["runtime"]) == ("rclpy", "embedded")
    assert native["names"] == embedded["names"]
    assert native["reason"] == "rclpy imports"
    # Every name comes from the module that ROS has it in, under its own name.
    expected = {name: f"{module}.{name}" for module, names in _FAKE.items() for name in names if module != "std_msgs.msg"}
    assert {name: native["where"][name] for name in expected} == expected
    assert "tf2_ros" in native["where"]["tf2"]
    assert native["string"] == "std_msgs.msg.String"
    assert "no-such-msgs" in native["error"]
    assert "BevstackError" in native["error"]
    # Our message classes must not stand in for a package that a real ROS lacks: rclpy could not use them.
    assert not native["finder"]
    assert embedded["finder"]
    assert not embedded["torch"]
