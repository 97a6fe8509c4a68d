"""Parameters: declaring, types, ranges, callbacks, files, services, events."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.ros import runtime as ros
from bevstack.ros.runtime import FloatingPointRange, IntegerRange, Parameter, ParameterDescriptor, SetParametersResult

Type = Parameter.Type
errors = ros.exceptions


def test_declare_get_set(make_node: Callable[..., Any]) -> None:
    node = make_node()
    assert node.declare_parameter("score", 0.5).value == 0.5
    assert node.has_parameter("score")
    assert node.get_parameter("score").type_ is Type.DOUBLE
    (result,) = node.set_parameters([Parameter("score", value=0.25)])
    assert result.successful
    assert node.get_parameter("score").value == 0.25
    with pytest.raises(errors.ParameterAlreadyDeclaredException):
        node.declare_parameter("score", 0.1)
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.get_parameter("nothing")
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.set_parameters([Parameter("nothing", value=1)])
    with pytest.raises(errors.InvalidParameterException):
        node.declare_parameter("", 1)


def test_types_are_static(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("count", 3)
    result = node.set_parameters([Parameter("count", value=3.5)])[0]
    assert not result.successful
    assert result.reason.startswith("Wrong parameter type")
    assert node.get_parameter("count").value == 3
    with pytest.raises(errors.InvalidParameterTypeException):
        make_node("second", parameter_overrides=[Parameter("count", value="three")]).declare_parameter("count", 3)


def test_dynamic_typing(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("any", None, ParameterDescriptor(dynamic_typing=True))
    assert node.get_parameter("any").value is None
    for value in (1, "text", [1.0, 2.0]):
        assert node.set_parameters([Parameter("any", value=value)])[0].successful
        assert node.get_parameter("any").value == value


def test_declared_by_type_has_no_value_yet(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("weights", Type.STRING)
    with pytest.raises(errors.ParameterUninitializedException):
        node.get_parameter("weights")
    assert node.get_parameter_or("weights", Parameter("weights", value="none")).value == "none"
    assert not node.set_parameters([Parameter("weights", value=3)])[0].successful
    assert node.set_parameters([Parameter("weights", value="a.safetensors")])[0].successful
    assert node.get_parameter("weights").value == "a.safetensors"
    with pytest.raises(ValueError):
        node.declare_parameter("x", Type.NOT_SET)
    with pytest.raises(ValueError):
        node.declare_parameter("x", None, ParameterDescriptor())


def test_name_only_warns(make_node: Callable[..., Any]) -> None:
    node = make_node()
    with pytest.warns(UserWarning, match="deprecated"):
        node.declare_parameter("bare")


@pytest.mark.parametrize(
    ("value", "good"),
    [(0, True), (10, True), (5, True), (4, False), (-1, False), (11, False)],
)
def test_integer_range(make_node: Callable[..., Any], value: int, good: bool) -> None:
    node = make_node()
    descriptor = ParameterDescriptor(integer_range=[IntegerRange(from_value=0, to_value=10, step=5)])
    node.declare_parameter("n", 0, descriptor)
    result = node.set_parameters([Parameter("n", value=value)])[0]
    assert result.successful is good
    assert good or "n" in result.reason


@pytest.mark.parametrize(("value", "good"), [(0.0, True), (1.0, True), (0.5, True), (0.3, False), (-0.1, False), (1.1, False)])
def test_floating_point_range(make_node: Callable[..., Any], value: float, good: bool) -> None:
    node = make_node()
    descriptor = ParameterDescriptor(floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0, step=0.25)])
    node.declare_parameter("x", 0.25, descriptor)
    assert node.set_parameters([Parameter("x", value=value)])[0].successful is good


def test_range_also_holds_for_the_default_and_for_overrides(make_node: Callable[..., Any]) -> None:
    descriptor = ParameterDescriptor(floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1.0)])
    with pytest.raises(errors.InvalidParameterValueException, match="out of range"):
        make_node("a").declare_parameter("x", 2.0, descriptor)
    with pytest.raises(errors.InvalidParameterValueException):
        make_node("b", parameter_overrides=[Parameter("x", value=7.0)]).declare_parameter("x", 0.5, descriptor)


def test_read_only(make_node: Callable[..., Any]) -> None:
    node = make_node("n", parameter_overrides=[Parameter("fixed", value=2)])
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))
    assert node.get_parameter("fixed").value == 2
    result = node.set_parameters([Parameter("fixed", value=3)])[0]
    assert not result.successful
    assert "read-only" in result.reason
    with pytest.raises(errors.ParameterImmutableException):
        node.undeclare_parameter("fixed")


def test_undeclare(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("temporary", 1)
    node.undeclare_parameter("temporary")
    assert not node.has_parameter("temporary")
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.undeclare_parameter("temporary")


def test_undeclared_may_be_allowed(make_node: Callable[..., Any]) -> None:
    node = make_node("n", allow_undeclared_parameters=True)
    assert node.get_parameter("x").type_ is Type.NOT_SET
    assert node.set_parameters([Parameter("x", value=1)])[0].successful
    assert node.get_parameter("x").value == 1


def test_overrides_and_ignore_override(make_node: Callable[..., Any]) -> None:
    node = make_node("n", parameter_overrides=[Parameter("a", value=5), Parameter("b", value=6)])
    assert node.declare_parameter("a", 1).value == 5
    assert node.declare_parameter("b", 1, ignore_override=True).value == 1
    everything = make_node(
        "m", parameter_overrides=[Parameter("c", value="x")], automatically_declare_parameters_from_overrides=True
    )
    assert everything.get_parameter("c").value == "x"


def test_declare_many_with_prefix(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameters("camera", [("width", 1600), ("name", "front", ParameterDescriptor(description="which"))])
    assert {name: parameter.value for name, parameter in node.get_parameters_by_prefix("camera").items()} == {
        "width": 1600,
        "name": "front",
    }
    assert node.describe_parameter("camera.name").description == "which"
    assert [parameter.value for parameter in node.get_parameters(["camera.width", "camera.name"])] == [1600, "front"]
    listed = node.list_parameters(["camera"], 1)
    assert list(listed.names) == ["camera.name", "camera.width"]
    assert list(listed.prefixes) == ["camera"]
    assert "camera.name" not in node.list_parameters([], 1).names
    with pytest.raises(TypeError):
        node.declare_parameters("", [("x", 1, "no descriptor")])


def test_callbacks_run_in_order(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("x", 1)
    node.declare_parameter("y", 1)
    order = []

    def before(parameters: list[Parameter]) -> list[Parameter]:
        order.append("pre")
        return [*parameters, Parameter("y", value=parameters[0].value * 2)]

    def check(parameters: list[Parameter]) -> Any:
        order.append("on")
        bad = [parameter.name for parameter in parameters if parameter.value > 100]
        return SetParametersResult(successful=not bad, reason=f"{bad} too large" if bad else "")

    def after(parameters: list[Parameter]) -> None:
        order.append("post")

    node.add_pre_set_parameters_callback(before)
    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(after)
    assert node.set_parameters_atomically([Parameter("x", value=7)]).successful
    assert order == ["pre", "on", "post"]
    assert (node.get_parameter("x").value, node.get_parameter("y").value) == (7, 14)
    order.clear()
    refused = node.set_parameters([Parameter("x", value=99)])[0]
    assert (refused.successful, refused.reason) == (False, "['y'] too large")
    assert order == ["pre", "on"]
    assert node.get_parameter("x").value == 7
    node.remove_pre_set_parameters_callback(before)
    node.remove_on_set_parameters_callback(check)
    node.remove_post_set_parameters_callback(after)
    assert node.set_parameters([Parameter("x", value=1000)])[0].successful
    with pytest.raises(ValueError):
        node.remove_on_set_parameters_callback(check)


def test_last_on_set_callback_is_asked_first(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("x", 1)
    asked = []

    def make(name: str) -> Any:
        def check(parameters: Any) -> Any:
            asked.append(name)
            return SetParametersResult(successful=True)

        return check

    node.add_on_set_parameters_callback(make("first"))
    node.add_on_set_parameters_callback(make("second"))
    node.set_parameters([Parameter("x", value=2)])
    assert asked == ["second", "first"]


def test_pre_set_callback_may_not_return_nothing(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("x", 1)
    node.add_pre_set_parameters_callback(lambda parameters: [])
    result = node.set_parameters([Parameter("x", value=2)])[0]
    assert not result.successful
    assert "cannot be empty" in result.reason


def test_atomically_means_all_or_none(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("a", 1)
    node.declare_parameter("b", 1)
    assert not node.set_parameters_atomically([Parameter("a", value=2), Parameter("b", value="x")]).successful
    assert node.get_parameter("a").value == 1


def test_set_descriptor(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("n", 50)
    tight = ParameterDescriptor(type=2, integer_range=[IntegerRange(from_value=0, to_value=10)])
    with pytest.raises(errors.InvalidParameterValueException):
        node.set_descriptor("n", tight)
    value = node.set_descriptor("n", tight, Parameter("n", value=7).get_parameter_value())
    assert value.integer_value == 7
    assert not node.set_parameters([Parameter("n", value=11)])[0].successful


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, Type.BOOL),
        (3, Type.INTEGER),
        (2.5, Type.DOUBLE),
        ("text", Type.STRING),
        ([b"\x01", b"\x02"], Type.BYTE_ARRAY),
        ([True, False], Type.BOOL_ARRAY),
        ([1, 2, 3], Type.INTEGER_ARRAY),
        ([1.0, 2.0], Type.DOUBLE_ARRAY),
        (["a", "b"], Type.STRING_ARRAY),
        (None, Type.NOT_SET),
    ],
)
def test_parameter_types_and_messages(value: Any, kind: Any) -> None:
    parameter = Parameter("p", value=value)
    assert parameter.type_ is kind
    back = Parameter.from_parameter_msg(parameter.to_parameter_msg())
    assert (back.name, back.type_, back.value) == ("p", kind, value)


def test_bad_values() -> None:
    with pytest.raises(TypeError):
        Parameter("p", value={"a": 1})
    with pytest.raises(TypeError):
        Parameter("p", value=[1, "a"])
    with pytest.raises(ValueError):
        Parameter("p", Type.INTEGER, "three")
    with pytest.raises(TypeError):
        Parameter("p", "integer", 3)  # type: ignore[arg-type]


def test_event_and_its_contents(make_node: Callable[..., Any], spinner: Any) -> None:
    watcher = make_node("watcher")
    events: list[Any] = []
    watcher.create_subscription(ros.messages("rcl_interfaces/msg/ParameterEvent"), "/parameter_events", events.append, 100)
    node = make_node("changed", namespace="/ns")
    node.declare_parameter("x", 1)
    node.set_parameters([Parameter("x", value=2)])

    def mine() -> list[Any]:
        return [event for event in events if event.node == "/ns/changed"]

    def named(event: Any, kind: str) -> list[str]:
        return [parameter.name for parameter in getattr(event, kind)]

    assert spinner.until(lambda: any("x" in named(event, "changed_parameters") for event in mine()))
    assert any("x" in named(event, "new_parameters") for event in mine())


FILE = """
/**:
  ros__parameters:
    everywhere: 1
    nested: {deep: {er: true}}
bev:
  ros__parameters:
    score: 0.5
    count: 3
    small: 1e-3
    time: 12:30
    date: 2020-01-01
    hex: 0x10
    word: "on"
    flag: on
    names: [cam_front, cam_back]
    sizes: [1, 2, 3]
    mixed: [1, 2.5]
/vehicle/bev:
  ros__parameters:
    score: 0.75
vehicle:
  other:
    ros__parameters:
      score: 0.125
/*/third:
  ros__parameters:
    score: 0.0625
"""


def test_parameter_file(make_node: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FILE)
    args = ["--ros-args", "--params-file", str(path), "-p", "count:=9", "-p", "other:everywhere:=2"]

    def values(name: str, namespace: str) -> dict[str, Any]:
        node = make_node(name, namespace=namespace, cli_args=args, automatically_declare_parameters_from_overrides=True)
        return {key: parameter.value for key, parameter in node.get_parameters_by_prefix("").items()}

    root = values("bev", "/")
    assert root["score"] == 0.5
    assert root["count"] == 9
    assert root["small"] == 1e-3
    assert root["time"] == "12:30"
    assert root["date"] == "2020-01-01"
    assert root["hex"] == 16
    assert root["word"] == "on"
    assert root["flag"] is True
    assert root["names"] == ["cam_front", "cam_back"]
    assert root["sizes"] == [1, 2, 3]
    assert root["mixed"] == [1.0, 2.5]
    assert root["nested.deep.er"] is True
    assert values("bev", "/vehicle")["score"] == 0.75
    other = values("other", "/vehicle")
    assert (other["score"], other["everywhere"]) == (0.125, 2)
    assert values("third", "/any")["score"] == 0.0625
    assert "score" not in values("third", "/too/deep")
    assert values("stranger", "/x")["everywhere"] == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bev: [1", "YAML"),
        ("bev:\n  score: 1", "outside of 'ros__parameters'"),
        ("bev:\n  ros__parameters: 3", "not a map"),
        ("ros__parameters:\n  a: 1", "without a node name"),
        ("", "empty"),
        ("bev:\n  ros__parameters:\n    a: [1, b]", "'a'"),
        ("bev:\n  ros__parameters:\n    a:", "no value"),
        ("bev:\n  ros__parameters:\n    a: 99999999999999999999", "64 bits"),
    ],
)
def test_bad_parameter_files_name_file_and_fault(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    context = ros.Context()
    with pytest.raises(RuntimeError) as failure:
        ros.init(args=["program", "--ros-args", "--params-file", str(path)], context=context)
    assert "bad.yaml" in str(failure.value)
    assert part in str(failure.value)
    assert "\n" not in str(failure.value)


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
        st.lists(st.text(), min_size=1),
        st.lists(st.booleans(), min_size=1),
    )
)
def test_any_value_survives_the_message(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parameter = Parameter("p", value=value)
        raw = ros.serialize_message(parameter.to_parameter_msg())
        back = Parameter.from_parameter_msg(ros.deserialize_message(raw, ros.messages("rcl_interfaces/msg/Parameter")))
    assert (back.type_, back.value) == (parameter.type_, value)


def test_parameter_services(make_node: Callable[..., Any], spinner: Any) -> None:
    node, client_node = make_node("served", namespace="/ns"), make_node("asking")
    node.declare_parameter("x", 1, ParameterDescriptor(description="a number", integer_range=[IntegerRange(to_value=10)]))
    node.declare_parameter("text", "t")

    def call(kind: str, name: str, **fields: Any) -> Any:
        service = ros.messages(f"rcl_interfaces/srv/{kind}")
        client = client_node.create_client(service, f"/ns/served/{name}")
        assert client.wait_for_service(5.0)
        future = client.call_async(service.Request(**fields))
        spinner.executor.spin_until_future_complete(future, 20.0)
        assert future.done()
        return future.result()

    def message(name: str, value: Any) -> Any:
        return Parameter(name, value=value).to_parameter_msg()

    assert "x" in call("ListParameters", "list_parameters").result.names
    assert [value.integer_value for value in call("GetParameters", "get_parameters", names=["x"]).values] == [1]
    assert len(call("GetParameters", "get_parameters", names=["x", "no"]).values) == 0
    assert list(call("GetParameterTypes", "get_parameter_types", names=["x", "text"]).types) == [2, 4]
    assert call("DescribeParameters", "describe_parameters", names=["x"]).descriptors[0].description == "a number"
    results = call(
        "SetParameters", "set_parameters", parameters=[message("x", 5), message("x", 50), message("unknown", 1)]
    ).results
    assert [result.successful for result in results] == [True, False, False]
    assert "out of range" in results[1].reason
    assert node.get_parameter("x").value == 5
    atomic = call("SetParametersAtomically", "set_parameters_atomically", parameters=[message("x", 6), message("text", 1)])
    assert not atomic.result.successful
    assert node.get_parameter("x").value == 5


def test_qos_overrides_are_parameters(make_node: Callable[..., Any]) -> None:
    string = ros.messages("std_msgs/msg/String")
    override = [Parameter("qos_overrides./t.publisher.reliability", value="best_effort")]
    node = make_node("n", parameter_overrides=override)
    publisher = node.create_publisher(string, "t", 10, qos_overriding_options=ros.QoSOverridingOptions.with_default_policies())
    assert publisher.qos_profile.reliability == ros.ReliabilityPolicy.BEST_EFFORT
    assert node.get_parameter("qos_overrides./t.publisher.depth").value == 10
    assert not node.set_parameters([Parameter("qos_overrides./t.publisher.depth", value=3)])[0].successful


def test_values_as_text_and_files_as_messages(tmp_path: Path) -> None:
    if ros.RUNTIME == "embedded":
        from bevstack.ros.runtime.embedded.parameter import get_parameter_value, parameter_dict_from_yaml_file
    else:
        from rclpy.parameter import get_parameter_value, parameter_dict_from_yaml_file
    for text, value in (("1", 1), ("1.5", 1.5), ("true", True), ("[1, 2]", [1, 2]), ("word", "word"), ("'1'", "1")):
        assert ros.parameter_value_to_python(get_parameter_value(text)) == value
    path = tmp_path / "p.yaml"
    path.write_text("/**:\n  ros__parameters: {everywhere: 1}\n/ns/n:\n  ros__parameters: {here: [a, b]}\n")
    found = parameter_dict_from_yaml_file(str(path), target_nodes=["/ns/n"])
    assert {name: ros.parameter_value_to_python(entry.value) for name, entry in found.items()} == {"here": ["a", "b"]}
    assert set(parameter_dict_from_yaml_file(str(path), use_wildcard=True, target_nodes=["/ns/n"])) == {"everywhere", "here"}
    assert set(parameter_dict_from_yaml_file(str(path), target_nodes=["/ns/n"], namespace="deep")) == {"deep.here"}
    with pytest.raises(RuntimeError):
        parameter_dict_from_yaml_file(str(path), target_nodes=["/ns/other"])


def test_arguments_are_checked(make_node: Callable[..., Any]) -> None:
    node = make_node()
    for wrong in (
        lambda: node.get_parameters([1]),
        lambda: node.get_parameter_types([1]),
        lambda: node.list_parameters("x", 0),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError):
        node.list_parameters([], "all")
    with pytest.raises(ValueError):
        node.list_parameters([], -1)
    with pytest.raises(TypeError):
        node.set_parameters(["no parameter"])
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.get_parameter_type("nothing")
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.describe_parameter("nothing")
    with pytest.raises(errors.ParameterNotDeclaredException):
        node.set_descriptor("nothing", ParameterDescriptor())
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))
    with pytest.raises(errors.ParameterImmutableException):
        node.set_descriptor("fixed", ParameterDescriptor())


def test_unsetting_a_dynamic_parameter_deletes_it(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.declare_parameter("d", 1, ParameterDescriptor(dynamic_typing=True))
    node.declare_parameter("s", 1)
    assert node.set_parameters([Parameter("d", Type.NOT_SET)])[0].successful
    assert not node.has_parameter("d")
    refused = node.set_parameters([Parameter("s", Type.NOT_SET)])[0]
    assert not refused.successful
    assert node.get_parameter("s").value == 1


def test_qos_overrides_that_cannot_be(make_node: Callable[..., Any]) -> None:
    string = ros.messages("std_msgs/msg/String")
    options = ros.QoSOverridingOptions.with_default_policies(entity_id="left")
    node = make_node("n", parameter_overrides=[Parameter("qos_overrides./t.subscription_left.reliability", value="perhaps")])
    with pytest.raises(Exception, match="perhaps"):
        node.create_subscription(string, "t", lambda message: None, 10, qos_overriding_options=options)
    refusing = ros.QoSOverridingOptions(
        [ros.QoSPolicyKind.DEPTH, ros.QoSPolicyKind.DEADLINE],
        callback=lambda profile: SetParametersResult(successful=profile.depth < 5, reason="too deep"),
    )
    with pytest.raises(Exception, match="too deep"):
        node.create_publisher(string, "other", 10, qos_overriding_options=refusing)
    assert node.create_publisher(string, "shallow", 3, qos_overriding_options=refusing).qos_profile.depth == 3
