"""Programs: signals and exit codes, and two processes that talk over the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Int32, String

from bevstack.ros import runtime as ros

_LONG = 40.0
#: Away from what other programs on the machine may use.
_DOMAIN = 60 + os.getpid() % 30


class Program:
    """A Python program whose lines can be waited for."""

    def __init__(self, text: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(text)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.strip())
        self._queue.put(None)

    def wait_for(self, text: str) -> str:
        """The next line that contains `text`."""
        while True:
            try:
                line = self._queue.get(timeout=_LONG)
            except Empty:
                pytest.fail(f"'{text}' did not come; got {self.lines}")
            if line is None:
                pytest.fail(f"the program ended before '{text}'; got {self.lines}")
            self.lines.append(line)
            if text in line:
                return line

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_LONG)


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    programs = []

    def run(text: str, **environment: str) -> Program:
        programs.append(Program(text, **environment))
        return programs[-1]

    yield run
    for program in programs:
        program.process.kill()
        program.process.wait(_LONG)


_SPINNING = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs with SIGINT ignored
    from bevstack.ros import runtime as ros
    from std_msgs.msg import String
    ros.init()
    node = ros.Node("spinning")
    publisher = node.create_publisher(String, "t", 10)
    node.create_subscription(String, "t", lambda message: None, 10)
    node.create_timer(0.001, lambda: publisher.publish(String()))
    node.create_timer(0.2, lambda: print("ready", flush=True))
    try:
        ros.spin(node)
        print("not ok any more", flush=True)  # the signal came while a callback ran
    except ros.ExternalShutdownException:
        print("external shutdown", flush=True)
    except KeyboardInterrupt:
        print("keyboard interrupt", flush=True)
    finally:
        node.destroy_node()
        ros.try_shutdown()
    ros.init()  # the same process can start again
    ros.Node("again").destroy_node()
    ros.shutdown()
    print("left in order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_node_with_exit_code_0(start: Callable[..., Program], number: int) -> None:
    program = start(_SPINNING)
    program.wait_for("ready")
    assert program.end(number) == 0
    program.wait_for("left in order")
    assert ("keyboard interrupt" in program.lines) == (number == signal.SIGINT)


def test_sigterm_reaches_a_program_that_is_in_a_callback(start: Callable[..., Program]) -> None:
    program = start(
        """
        import time
        from bevstack.ros import runtime as ros
        ros.init()
        node = ros.Node("busy")
        ended = []
        node.context.on_shutdown(lambda: ended.append(1))
        def work():
            print("ready", flush=True)
            while not ended:
                time.sleep(0.01)
        node.create_timer(0.01, work)
        executor = ros.MultiThreadedExecutor(num_threads=2)
        executor.add_node(node)
        try:
            executor.spin()
        except ros.ExternalShutdownException:
            pass
        executor.shutdown()
        node.destroy_node()
        ros.try_shutdown()
        print("left in order", flush=True)
        """
    )
    program.wait_for("ready")
    assert program.end() == 0
    program.wait_for("left in order")


def test_a_program_that_forgets_to_shut_down_still_ends(start: Callable[..., Program]) -> None:
    program = start(
        """
        from bevstack.ros import runtime as ros
        ros.init()
        node = ros.Node("careless")
        print("done", flush=True)
        """
    )
    program.wait_for("done")
    assert program.process.wait(_LONG) == 0


def test_arguments_of_the_program(start: Callable[..., Program]) -> None:
    program = start(
        """
        import sys
        sys.argv = ["program", "--mine", "--ros-args", "-r", "__ns:=/car", "-r", "in:=/out", "-p", "k:=5", "--", "rest"]
        from bevstack.ros import runtime as ros
        ros.init()
        node = ros.Node("n")
        print(node.get_fully_qualified_name(), node.resolve_topic_name("in"), node.declare_parameter("k", 1).value, flush=True)
        """
    )
    assert program.wait_for("/car") == "/car/n /out 5"


# over the wire ----------------------------------------------------------------------------------------------------------------

_SERVER = """
    import numpy as np
    from bevstack.ros import runtime as ros
    from sensor_msgs.msg import Image
    from std_msgs.msg import Int32, String
    ros.init()
    node = ros.Node("server", namespace="/far")
    node.declare_parameter("gain", 2)
    latched = ros.QoSProfile(depth=1, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)
    label = node.create_publisher(String, "label", latched)
    label.publish(String(data="latched"))
    pixels = np.arange(450 * 2400, dtype=np.uint32).astype(np.uint8)
    image = Image(height=450, width=800, step=2400, encoding="rgb8", data=pixels)
    images = node.create_publisher(Image, "image", 5)
    node.create_timer(0.05, lambda: images.publish(image))
    unreliable = node.create_publisher(Int32, "unreliable", ros.qos_profile_sensor_data)
    echo = node.create_publisher(Int32, "echo", 100)
    node.create_subscription(Int32, "ping", lambda message: echo.publish(Int32(data=message.data * 2)), 100)
    def serve(request, response):
        response.success, response.message = request.data, "served"
        return response
    node.create_service(ros.messages("std_srvs/srv/SetBool"), "set", serve)
    print("ready", flush=True)
    try:
        ros.spin(node)
    except ros.ExternalShutdownException:
        pass
    node.destroy_node()
    ros.try_shutdown()
"""


@pytest.fixture
def far(start: Callable[..., Program], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A node of this process (context in the same domain) beside a server in another one."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(_DOMAIN))
    program = start(_SERVER)
    context = ros.Context()
    ros.init(args=[], context=context)
    node = ros.Node("near", context=context)
    wire = getattr(getattr(context, "_hub", None), "wire", None)
    if wire is not None and not wire.available:
        pytest.skip(wire.reason)
    executor = ros.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    program.wait_for("ready")

    def until(condition: Callable[[], bool]) -> bool:
        future = ros.Future()

        def check() -> None:
            if condition() and not future.done():
                future.set_result(True)

        timer = node.create_timer(0.02, check)
        executor.spin_until_future_complete(future, _LONG)
        node.destroy_timer(timer)
        return future.done()

    yield node, until, executor, program
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.wire
def test_topics_between_processes(far: Any) -> None:
    node, until, _, program = far
    images: list[Any] = []
    raw: list[bytes] = []
    labels: list[Any] = []
    echoes: list[int] = []
    infos: list[Any] = []
    node.create_subscription(Image, "/far/image", lambda message, info: (images.append(message), infos.append(info)), 5)
    node.create_subscription(Image, "/far/image", raw.append, 5, raw=True)
    node.create_subscription(
        String, "/far/label", labels.append, ros.QoSProfile(depth=1, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)
    )
    node.create_subscription(Int32, "/far/echo", lambda message: echoes.append(message.data), 100)
    ping = node.create_publisher(Int32, "/far/ping", 100)
    assert until(lambda: len(images) >= 2 and len(raw) >= 2 and len(labels) == 1)
    assert labels[0].data == "latched"
    assert images[0].width == 800
    pixels = np.frombuffer(images[0].data, np.uint8)
    np.testing.assert_array_equal(pixels, np.arange(450 * 2400, dtype=np.uint32).astype(np.uint8))
    assert ros.deserialize_message(raw[0], Image) == images[0]
    assert infos[0]["source_timestamp"] <= infos[0]["received_timestamp"]
    # Both ways, in order, none lost.
    assert until(lambda: ping.get_subscription_count() == 1 and node.count_publishers("/far/echo") == 1)
    for index in range(50):
        ping.publish(Int32(data=index))
    assert until(lambda: len(echoes) == 50)
    assert echoes == [2 * index for index in range(50)]
    # The graph shows the other side as a node with its topics.
    assert node.wait_for_node("/far/server", _LONG)
    assert ("/far/image", ["sensor_msgs/msg/Image"]) in node.get_topic_names_and_types()
    info = node.get_publishers_info_by_topic("/far/image")
    assert [(end.node_name, end.node_namespace, end.topic_type) for end in info] == [
        ("server", "/far", "sensor_msgs/msg/Image")
    ]
    assert ("/far/image", ["sensor_msgs/msg/Image"]) in node.get_publisher_names_and_types_by_node("server", "/far")
    assert ("/far/ping", ["std_msgs/msg/Int32"]) in node.get_subscriber_names_and_types_by_node("server", "/far")
    with pytest.raises(RuntimeError):
        node.get_publisher_names_and_types_by_node("nobody", "/far")
    assert program.end() == 0
    assert until(lambda: node.count_publishers("/far/image") == 0)
    assert "/far/server" not in node.get_fully_qualified_node_names()


@pytest.mark.wire
def test_services_and_parameters_between_processes(far: Any) -> None:
    node, until, executor, _ = far
    set_bool = ros.messages("std_srvs/srv/SetBool")
    client = node.create_client(set_bool, "/far/set")
    assert client.wait_for_service(_LONG)
    futures = [client.call_async(set_bool.Request(data=bool(index % 2))) for index in range(10)]
    assert until(lambda: all(future.done() for future in futures))
    assert [future.result().success for future in futures] == [bool(index % 2) for index in range(10)]
    assert node.count_services("/far/set") == 1

    put, get = ros.messages("rcl_interfaces/srv/SetParameters"), ros.messages("rcl_interfaces/srv/GetParameters")
    setter = node.create_client(put, "/far/server/set_parameters")
    getter = node.create_client(get, "/far/server/get_parameters")
    assert setter.wait_for_service(_LONG)
    assert getter.wait_for_service(_LONG)
    future = setter.call_async(put.Request(parameters=[ros.Parameter("gain", value=7).to_parameter_msg()]))
    executor.spin_until_future_complete(future, _LONG)
    assert future.result().results[0].successful
    future = getter.call_async(get.Request(names=["gain"]))
    executor.spin_until_future_complete(future, _LONG)
    assert future.result().values[0].integer_value == 7


@pytest.mark.wire
def test_incompatible_qos_between_processes(far: Any) -> None:
    node, until, _, _ = far
    events: list[Any] = []
    got: list[Any] = []
    node.create_subscription(
        Int32,
        "/far/unreliable",
        got.append,
        10,
        event_callbacks=ros.SubscriptionEventCallbacks(incompatible_qos=events.append),
    )
    assert until(lambda: bool(events))
    assert events[0].last_policy_kind == ros.QoSPolicyKind.RELIABILITY
    assert got == []


@pytest.mark.wire
@pytest.mark.skipif(ros.RUNTIME != "embedded", reason="rclpy has no hand-over by reference")
def test_a_message_is_delivered_once_with_the_wire_open(far: Any) -> None:
    """Local subscriptions get the object, and not a second copy over the wire; a remote reader does not change that."""
    node, until, _, _ = far
    got: list[Any] = []
    echoes: list[Any] = []
    node.create_subscription(Int32, "/far/ping", got.append, 10)
    node.create_subscription(Int32, "/far/echo", echoes.append, 10)
    publisher = node.create_publisher(Int32, "/far/ping", 10)
    assert until(lambda: publisher.get_subscription_count() == 2 and node.count_publishers("/far/echo") == 1)
    message = Int32(data=4)
    publisher.publish(message)
    assert until(lambda: len(echoes) == 1)
    assert len(got) == 1
    assert got[0] is message
