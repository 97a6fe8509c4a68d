"""Nodes: names, namespaces, remaps, command line, contexts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from std_msgs.msg import String

from bevstack.ros import runtime as ros


def test_node_in_a_namespace(make_node: Callable[..., Any]) -> None:
    node = make_node("bev", namespace="vehicle/front")
    assert (node.get_name(), node.get_namespace()) == ("bev", "/vehicle/front")
    assert node.get_fully_qualified_name() == "/vehicle/front/bev"
    assert node.get_logger().name == "vehicle.front.bev"
    assert node.resolve_topic_name("image") == "/vehicle/front/image"
    assert node.resolve_topic_name("~/detections") == "/vehicle/front/bev/detections"
    assert node.resolve_topic_name("/tf") == "/tf"
    assert node.resolve_topic_name("{node}/x") == "/vehicle/front/bev/x"
    assert node.create_publisher(String, "~/out", 1).topic_name == "/vehicle/front/bev/out"
    assert node.create_service(ros.messages("std_srvs/srv/Trigger"), "~/go", lambda q, r: r).service_name.endswith("bev/go")
    assert ("bev", "/vehicle/front") in node.get_node_names_and_namespaces()


def test_root_namespace(make_node: Callable[..., Any]) -> None:
    node = make_node("bev")
    assert node.get_namespace() == "/"
    assert node.get_fully_qualified_name() == "/bev"
    assert node.resolve_topic_name("~/x") == "/bev/x"


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        ("image:=/cam_front/image_raw", "image", "/cam_front/image_raw"),
        ("image:=other", "image", "/ns/other"),
        ("~/detections:=boxes", "~/detections", "/ns/boxes"),
        ("/ns/image:=/x", "image", "/x"),
        ("bev:image:=/only/bev", "image", "/only/bev"),
        ("other:image:=/only/other", "image", "/ns/image"),
        ("rostopic://image:=/t", "image", "/t"),
        ("rosservice://image:=/s", "image", "/ns/image"),
    ],
)
def test_remaps(make_node: Callable[..., Any], rule: str, name: str, expected: str) -> None:
    node = make_node("bev", namespace="/ns", cli_args=["--ros-args", "-r", rule])
    assert node.resolve_topic_name(name) == expected
    assert node.resolve_topic_name(name, only_expand=True) == name.replace("~", "/ns/bev").replace("image", "/ns/image")
    assert node.create_publisher(String, name, 1).topic_name == expected


def test_service_remap(make_node: Callable[..., Any]) -> None:
    node = make_node("bev", cli_args=["--ros-args", "-r", "reset:=/all/reset"])
    assert node.resolve_service_name("reset") == "/all/reset"


def test_name_and_namespace_remap(make_node: Callable[..., Any]) -> None:
    node = make_node("bev", cli_args=["--ros-args", "-r", "__node:=second", "-r", "__ns:=/left"])
    assert node.get_fully_qualified_name() == "/left/second"
    other = make_node("cam", cli_args=["--ros-args", "-r", "bev:__node:=second"])
    assert other.get_name() == "cam"


def test_local_arguments_come_before_global_ones() -> None:
    context = ros.Context()
    ros.init(args=["program", "--ros-args", "-r", "a:=/global", "-r", "b:=/global_b"], context=context)
    try:
        node = ros.Node("n", context=context, cli_args=["--ros-args", "-r", "a:=/local"])
        assert node.resolve_topic_name("a") == "/local"
        assert node.resolve_topic_name("b") == "/global_b"
        deaf = ros.Node("deaf", context=context, use_global_arguments=False)
        assert deaf.resolve_topic_name("b") == "/b"
        node.destroy_node()
        deaf.destroy_node()
    finally:
        context.shutdown()


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a/b", "ä"])
def test_bad_node_names(context: Any, name: str) -> None:
    with pytest.raises(ros.exceptions.InvalidNodeNameException):
        ros.Node(name, context=context)


@pytest.mark.parametrize("name", ["a//b", "1", "x-y", "a/"])
def test_bad_namespaces(context: Any, name: str) -> None:
    with pytest.raises(ros.exceptions.InvalidNamespaceException):
        ros.Node("n", namespace=name, context=context)


@pytest.mark.parametrize("name", ["", "a//b", "a-b", "a/", "~x", "a~", "/1a", "{node", "a b"])
def test_bad_topic_names(make_node: Callable[..., Any], name: str) -> None:
    node = make_node()
    with pytest.raises(ros.exceptions.InvalidTopicNameException):
        node.create_publisher(String, name, 1)
    with pytest.raises(ros.exceptions.InvalidTopicNameException):
        node.create_subscription(String, name, lambda message: None, 1)
    with pytest.raises(ros.exceptions.InvalidServiceNameException):
        node.create_client(ros.messages("std_srvs/srv/Trigger"), name)


def test_name_exception_points_at_the_fault(context: Any) -> None:
    with pytest.raises(ros.exceptions.InvalidNodeNameException, match=r"'ab-c'\n {5}\^"):
        ros.Node("ab-c", context=context)


@pytest.mark.parametrize(
    "args",
    [
        ["-r", "nonsense"],
        ["-r"],
        ["-p", "x"],
        ["-p", "x:=[1, a]"],
        ["--params-file", "/does/not/exist.yaml"],
        ["--log-level", "loud"],
    ],
)
def test_bad_ros_arguments(args: list[str]) -> None:
    context = ros.Context()
    with pytest.raises(RuntimeError):
        ros.init(args=["program", "--ros-args", *args], context=context)
    assert not context.ok()


def test_unknown_ros_argument() -> None:
    context = ros.Context()
    with pytest.raises(RuntimeError, match="--no-such"):
        ros.init(args=["program", "--ros-args", "--no-such"], context=context)


def test_a_node_needs_a_running_context() -> None:
    with pytest.raises(ros.exceptions.NotInitializedException):
        ros.Node("n", context=ros.Context())


def test_context_life() -> None:
    context = ros.Context()
    with pytest.raises(RuntimeError):
        context.shutdown()
    context.init([])
    assert context.ok()
    with pytest.raises(RuntimeError):
        context.init([])
    called = []
    context.on_shutdown(lambda: called.append(1))
    context.shutdown()
    assert called == [1]
    assert not context.ok()
    with pytest.raises(RuntimeError):
        context.shutdown()
    context.try_shutdown()


def test_domain_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with ros.Context() as context:
        assert context.get_domain_id() == 0
    monkeypatch.setenv("ROS_DOMAIN_ID", "17")
    context = ros.Context()
    context.init([])
    assert context.get_domain_id() == 17
    context.shutdown()
    context = ros.Context()
    context.init([], domain_id=5)
    assert context.get_domain_id() == 5
    context.shutdown()


def test_init_and_shutdown_again_in_one_process() -> None:
    for _ in range(2):
        ros.init(args=[])
        assert ros.ok()
        got: list[Any] = []
        node = ros.create_node("again")
        node.create_subscription(String, "again", got.append, 1)
        node.create_publisher(String, "again", 1).publish(String(data="x"))
        ros.spin_once(node, timeout_sec=10.0)
        assert len(got) == 1
        node.destroy_node()
        ros.shutdown()
        assert not ros.ok()
    with pytest.raises(RuntimeError):
        ros.shutdown()
    ros.try_shutdown()


def test_two_contexts_in_one_process_share_a_domain() -> None:
    first, second, elsewhere = ros.Context(), ros.Context(), ros.Context()
    ros.init(args=[], context=first, domain_id=3)
    ros.init(args=[], context=second, domain_id=3)
    ros.init(args=[], context=elsewhere, domain_id=4)
    sender = ros.Node("sender", context=first)
    receiver, stranger = ros.Node("receiver", context=second), ros.Node("stranger", context=elsewhere)
    got: list[Any] = []
    receiver.create_subscription(String, "/t", got.append, 1)
    stranger.create_subscription(String, "/t", lambda message: got.append("wrong domain"), 1)
    publisher = sender.create_publisher(String, "/t", 1)
    executor = ros.SingleThreadedExecutor(context=second)
    executor.add_node(receiver)
    publisher.publish(String(data="hello"))
    executor.spin_once(timeout_sec=10.0)
    assert [message.data for message in got] == ["hello"]
    # One context ends, the other goes on.
    first.shutdown()
    assert second.ok()
    assert receiver.count_publishers("/t") == 0
    with pytest.raises(RuntimeError):
        publisher.publish(String(data="too late"))
    for node in (sender, receiver, stranger):
        node.destroy_node()
    executor.shutdown()
    second.shutdown()
    elsewhere.shutdown()


def test_counts_and_graph(make_node: Callable[..., Any]) -> None:
    node = make_node("graph")
    publisher = node.create_publisher(String, "t", 1)
    subscription = node.create_subscription(String, "t", lambda message: None, 1)
    assert (node.count_publishers("t"), node.count_subscribers("t")) == (1, 1)
    assert (publisher.get_subscription_count(), subscription.get_publisher_count()) == (1, 1)
    assert ("/t", ["std_msgs/msg/String"]) in node.get_topic_names_and_types()
    assert ("/t", ["std_msgs/msg/String"]) in node.get_publisher_names_and_types_by_node("graph", "/")
    info = node.get_publishers_info_by_topic("t")[0]
    assert (info.node_name, info.topic_type, info.qos_profile.depth) == ("graph", "std_msgs/msg/String", 1)
    assert str(info.topic_type_hash).startswith("RIHS01_")
    assert node.destroy_subscription(subscription)
    assert not node.destroy_subscription(subscription)
    assert publisher.get_subscription_count() == 0
    assert node.destroy_publisher(publisher)
    assert node.count_publishers("t") == 0
    with pytest.raises(ros.InvalidHandle):
        publisher.publish(String())
    with pytest.raises(RuntimeError):
        node.get_publisher_names_and_types_by_node("nobody", "/")


def test_destroyed_node_leaves_the_graph(make_node: Callable[..., Any]) -> None:
    watcher, goner = make_node("watcher"), make_node("goner")
    goner.create_publisher(String, "gone", 1)
    assert watcher.wait_for_node("/goner", 5.0)
    assert watcher.count_publishers("gone") == 1
    goner.destroy_node()
    goner.destroy_node()
    assert watcher.count_publishers("gone") == 0
    assert not watcher.wait_for_node("/goner", 0.01)


def test_a_node_that_fails_to_start_leaves_no_trace(make_node: Callable[..., Any], context: Any) -> None:
    watcher = make_node("watcher")
    with pytest.raises(ros.exceptions.InvalidParameterTypeException):
        ros.Node("broken", context=context, parameter_overrides=[ros.Parameter("use_sim_time", value="yes")])
    assert "broken" not in watcher.get_node_names()


def test_message_class_is_checked(make_node: Callable[..., Any]) -> None:
    node = make_node()
    for wrong in (str, String(), None, "std_msgs/msg/String"):
        with pytest.raises(AttributeError):
            node.create_publisher(wrong, "t", 1)
    with pytest.raises(AttributeError):
        node.create_client(String, "s")


def test_nothing_can_be_made_after_the_end(context: Any) -> None:
    node, gone = ros.Node("late", context=context), ros.Node("gone", context=context)
    gone.destroy_node()
    with pytest.raises(ros.InvalidHandle):
        gone.create_publisher(String, "t", 1)
    context.shutdown()
    for make in (
        lambda: node.create_publisher(String, "t", 1),
        lambda: node.create_subscription(String, "t", lambda message: None, 1),
        lambda: node.create_client(ros.messages("std_srvs/srv/Trigger"), "s"),
        lambda: node.create_service(ros.messages("std_srvs/srv/Trigger"), "s", lambda request, response: response),
    ):
        with pytest.raises(RuntimeError):
            make()
    node.destroy_node()


def test_a_context_may_begin_and_end_in_any_thread() -> None:
    got: list[Any] = []

    def work() -> None:
        ros.init(args=[])
        node = ros.Node("threaded")
        node.create_subscription(String, "t", got.append, 1)
        node.create_publisher(String, "t", 1).publish(String(data="x"))
        ros.spin_once(node, timeout_sec=10.0)
        node.destroy_node()
        ros.shutdown()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30.0)
    assert len(got) == 1


def test_signal_handlers_come_and_go() -> None:
    before = signal.getsignal(signal.SIGTERM)
    context = ros.Context()
    ros.init(args=[], context=context)
    assert signal.getsignal(signal.SIGTERM) is before  # only for the default context, unless asked for
    context.shutdown()
    ros.init(args=[], signal_handler_options=ros.SignalHandlerOptions.NO)
    assert signal.getsignal(signal.SIGTERM) is before
    ros.shutdown()
    if ros.RUNTIME == "embedded":  # rclpy's live in C
        ros.init(args=[])
        assert signal.getsignal(signal.SIGTERM) is not before
        ros.shutdown()
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_functions_of_the_module() -> None:
    ros.init(args=[])
    node = ros.create_node("plain", namespace="/x", start_parameter_services=False)
    assert node.count_services("/x/plain/get_parameters") == 0
    future = ros.Future()
    timer = node.create_timer(0.01, lambda: future.done() or future.set_result(7))
    ros.spin_until_future_complete(node, future, timeout_sec=20.0)
    assert future.result() == 7
    node.destroy_timer(timer)
    assert node.executor is None
    node.create_timer(0.01, ros.try_shutdown)
    ros.spin(node)  # ends because a callback ends the context
    assert not ros.ok()
    node.destroy_node()
    assert ros.get_rmw_implementation_identifier()


def test_endpoints_are_context_managers(make_node: Callable[..., Any]) -> None:
    node = make_node()
    trigger = ros.messages("std_srvs/srv/Trigger")
    with (
        node.create_publisher(String, "t", 1),
        node.create_subscription(String, "t", lambda message: None, 1),
        node.create_service(trigger, "s", lambda request, response: response),
        node.create_client(trigger, "s"),
    ):
        assert (node.count_publishers("t"), node.count_subscribers("t")) == (1, 1)
        assert (node.count_services("s"), node.count_clients("s")) == (1, 1)
    assert (node.count_publishers("t"), node.count_subscribers("t")) == (0, 0)
    assert (node.count_services("s"), node.count_clients("s")) == (0, 0)


def test_a_node_knows_its_own(make_node: Callable[..., Any], context: Any) -> None:
    node = make_node("owner", start_parameter_services=False)
    trigger = ros.messages("std_srvs/srv/Trigger")
    publisher, subscription = node.create_publisher(String, "t", 1), node.create_subscription(String, "t", lambda m: None, 1)
    service, client = node.create_service(trigger, "s", lambda q, r: r), node.create_client(trigger, "s")
    timer, guard = node.create_timer(1.0, lambda: None), node.create_guard_condition(lambda: None)
    assert publisher in list(node.publishers)
    assert subscription in list(node.subscriptions)
    assert list(node.services) == [service]
    assert list(node.clients) == [client]
    assert list(node.timers) == [timer]
    assert list(node.guards) == [guard]
    assert node.context is context
    assert isinstance(node.default_callback_group, ros.MutuallyExclusiveCallbackGroup)
    assert ("owner", "/", "/") in node.get_node_names_and_namespaces_with_enclaves()
    assert ("/s", ["std_srvs/srv/Trigger"]) in node.get_service_names_and_types_by_node("owner", "/")
    assert ("/s", ["std_srvs/srv/Trigger"]) in node.get_client_names_and_types_by_node("owner", "/")
    assert ("/t", ["std_msgs/msg/String"]) in node.get_subscriber_names_and_types_by_node("owner", "/")
    (info,) = node.get_subscriptions_info_by_topic("t")
    assert info == info
    assert "Node name: owner" in str(info)
    assert len(info.endpoint_gid) in (16, 24)
