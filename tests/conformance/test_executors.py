"""Executors, callback groups, tasks, guard conditions."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from std_msgs.msg import Int32, String

from bevstack.ros import runtime as ros

_LONG = 20.0


def test_spin_once_without_work_returns_after_the_timeout(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    spinner.drain()
    began = time.monotonic()
    spinner.executor.spin_once(timeout_sec=0.05)
    assert 0.04 <= time.monotonic() - began < _LONG
    spinner.executor.spin_once(timeout_sec=0)


def test_spin_once_runs_one_callback(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    spinner.drain()
    got: list[Any] = []
    node.create_subscription(Int32, "n", got.append, 10)
    publisher = node.create_publisher(Int32, "n", 10)
    spinner.drain()
    for index in range(3):
        publisher.publish(Int32(data=index))
    for count in (1, 2, 3):
        spinner.executor.spin_once(timeout_sec=_LONG)
        assert len(got) == count


def test_add_and_remove_nodes(make_node: Callable[..., Any], spinner: Any, context: Any) -> None:
    node = make_node()
    assert node.executor is spinner.executor
    assert not spinner.executor.add_node(node)
    assert spinner.executor.get_nodes() == [node]
    other = ros.SingleThreadedExecutor(context=context)
    node.executor = other
    assert (spinner.executor.get_nodes(), other.get_nodes()) == ([], [node])
    got: list[Any] = []
    node.create_subscription(String, "t", got.append, 10)
    node.create_publisher(String, "t", 10).publish(String())
    spinner.executor.spin_once(timeout_sec=0.05)
    assert got == []
    # What came while nobody span waits for the next executor.
    other.remove_node(node)
    assert node.executor is None
    spinner.executor.add_node(node)
    assert spinner.until(lambda: len(got) == 1)
    other.shutdown()


def test_an_exception_of_a_callback_comes_out_of_spin(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()

    def fail(message: Any) -> None:
        raise ZeroDivisionError("on purpose")

    node.create_subscription(String, "t", fail, 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(String())
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        spinner.until(lambda: False, 10.0)
    # The executor is not broken by it.
    publisher.publish(String())
    with pytest.raises(ZeroDivisionError):
        spinner.until(lambda: False, 10.0)


def test_spin_until_future_complete(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    future = ros.Future()
    node.create_timer(0.01, lambda: future.done() or future.set_result("done"))
    spinner.executor.spin_until_future_complete(future, _LONG)
    assert future.result() == "done"
    never = ros.Future()
    began = time.monotonic()
    spinner.executor.spin_until_future_complete(never, 0.05)
    assert not never.done()
    assert time.monotonic() - began < _LONG


def test_a_future_done_in_another_thread_ends_the_wait(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    future = ros.Future()
    threading.Timer(0.05, lambda: future.set_result(1)).start()
    spinner.executor.spin_until_future_complete(future, _LONG)
    assert future.result() == 1


def test_future_callbacks_and_cancel() -> None:
    future = ros.Future()
    called: list[Any] = []
    future.add_done_callback(called.append)
    future.set_result(3)
    future.add_done_callback(called.append)
    assert called == [future, future]
    assert (future.done(), future.result(), future.exception()) == (True, 3, None)
    other = ros.Future()
    other.cancel()
    assert other.cancelled()
    failed = ros.Future()
    failed.set_exception(ValueError("x"))
    with pytest.raises(ValueError):
        failed.result()


def test_tasks_and_coroutines(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    gate = ros.Future()
    order: list[str] = []

    async def wait() -> str:
        order.append("before")
        value = await gate
        order.append("after")
        return f"got {value}"

    task = spinner.executor.create_task(wait)
    plain = spinner.executor.create_task(lambda x, y=0: x + y, 1, y=2)
    assert spinner.until(plain.done)
    assert plain.result() == 3
    assert order == ["before"]
    assert not task.done()
    gate.set_result(7)
    assert spinner.until(task.done)
    assert task.result() == "got 7"
    assert order == ["before", "after"]


def test_coroutine_callbacks_hold_their_group(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    gate = ros.Future()
    order: list[str] = []

    async def slow(message: Any) -> None:
        order.append(f"begin {message.data}")
        await gate
        order.append(f"end {message.data}")

    node.create_subscription(String, "t", slow, 10)
    publisher = node.create_publisher(String, "t", 10)
    publisher.publish(String(data="1"))
    publisher.publish(String(data="2"))
    assert spinner.until(lambda: bool(order))
    spinner.drain()
    assert order == ["begin 1"]
    gate.set_result(None)
    assert spinner.until(lambda: len(order) == 4)
    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_guard_condition(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    called: list[int] = []
    guard = node.create_guard_condition(lambda: called.append(1))
    spinner.drain()
    assert called == []
    guard.trigger()
    assert spinner.until(lambda: len(called) == 1)
    threading.Timer(0.02, guard.trigger).start()
    assert spinner.until(lambda: len(called) == 2)
    assert node.destroy_guard_condition(guard)


def test_shutdown_of_the_executor_ends_spin(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    node.create_timer(0.01, spinner.executor.shutdown)
    spinner.executor.spin()
    assert spinner.executor.get_nodes() == []


def test_shutdown_of_the_context_in_a_callback_ends_spin(make_node: Callable[..., Any], spinner: Any, context: Any) -> None:
    node = make_node()
    node.create_timer(0.01, context.shutdown)
    spinner.executor.spin()
    assert not context.ok()


def test_shutdown_of_the_context_elsewhere_raises(make_node: Callable[..., Any], spinner: Any, context: Any) -> None:
    make_node()
    threading.Timer(0.05, context.shutdown).start()
    with pytest.raises(ros.ExternalShutdownException):
        spinner.executor.spin()


def test_an_executor_needs_a_running_context() -> None:
    with pytest.raises(RuntimeError if ros.RUNTIME == "rclpy" else ros.exceptions.NotInitializedException):
        ros.SingleThreadedExecutor(context=ros.Context())


# many threads -----------------------------------------------------------------------------------------------------------------


def _spin_in_thread(executor: Any) -> threading.Thread:
    def spin() -> None:
        try:
            executor.spin()
        except ros.ExternalShutdownException:
            return

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    return thread


def test_reentrant_callbacks_run_at_the_same_time(context: Any) -> None:
    node = ros.Node("many", context=context)
    meeting = threading.Barrier(3, timeout=_LONG)
    met: list[int] = []

    def meet(message: Any) -> None:
        meeting.wait()
        met.append(message.data)

    node.create_subscription(Int32, "n", meet, 10, callback_group=ros.ReentrantCallbackGroup())
    publisher = node.create_publisher(Int32, "n", 10)
    executor = ros.MultiThreadedExecutor(num_threads=4, context=context)
    executor.add_node(node)
    thread = _spin_in_thread(executor)
    for index in range(3):
        publisher.publish(Int32(data=index))
    limit = time.monotonic() + _LONG
    while len(met) < 3 and time.monotonic() < limit:
        time.sleep(0.005)
    assert sorted(met) == [0, 1, 2]
    executor.shutdown()
    thread.join(_LONG)
    assert not thread.is_alive()
    node.destroy_node()


def test_mutually_exclusive_callbacks_do_not(context: Any) -> None:
    node = ros.Node("one", context=context)
    group, elsewhere = ros.MutuallyExclusiveCallbackGroup(), ros.MutuallyExclusiveCallbackGroup()
    inside, worst = [0], [0]
    finished = threading.Semaphore(0)
    lock = threading.Lock()

    def work(message: Any) -> None:
        with lock:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
        time.sleep(0.002)
        with lock:
            inside[0] -= 1
        finished.release()

    for topic in ("a", "b"):
        node.create_subscription(Int32, topic, work, 100, callback_group=group)
    free = threading.Event()
    node.create_subscription(Int32, "c", lambda message: free.set(), 10, callback_group=elsewhere)
    publishers = [node.create_publisher(Int32, topic, 100) for topic in ("a", "b")]
    executor = ros.MultiThreadedExecutor(num_threads=4, context=context)
    executor.add_node(node)
    thread = _spin_in_thread(executor)
    for index in range(20):
        for publisher in publishers:
            publisher.publish(Int32(data=index))
    node.create_publisher(Int32, "c", 1).publish(Int32())
    for _ in range(40):
        assert finished.acquire(timeout=_LONG)
    assert worst[0] == 1
    assert free.wait(_LONG)
    executor.shutdown()
    thread.join(_LONG)
    node.destroy_node()


def test_an_exception_in_a_thread_comes_out_of_spin(context: Any) -> None:
    node = ros.Node("failing", context=context)

    def fail(message: Any) -> None:
        raise ZeroDivisionError("in a thread")

    node.create_subscription(String, "t", fail, 10)
    node.create_publisher(String, "t", 10).publish(String())
    executor = ros.MultiThreadedExecutor(num_threads=2, context=context)
    executor.add_node(node)
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        executor.spin()
    executor.shutdown()
    node.destroy_node()


def test_shutdown_waits_for_running_callbacks(context: Any) -> None:
    node = ros.Node("slow", context=context)
    began, go_on = threading.Event(), threading.Event()

    def slow(message: Any) -> None:
        began.set()
        go_on.wait(_LONG)

    node.create_subscription(String, "t", slow, 10)
    node.create_publisher(String, "t", 10).publish(String())
    executor = ros.MultiThreadedExecutor(num_threads=2, context=context)
    executor.add_node(node)
    thread = _spin_in_thread(executor)
    assert began.wait(_LONG)
    assert not executor.shutdown(timeout_sec=0.02)
    go_on.set()
    assert executor.shutdown(timeout_sec=_LONG)
    thread.join(_LONG)
    node.destroy_node()


def test_service_call_from_another_group(context: Any) -> None:
    """The classical use of groups: a callback waits for a service that the same executor serves."""
    trigger = ros.messages("std_srvs/srv/Trigger")
    node = ros.Node("both", context=context)

    def answer(request: Any, response: Any) -> Any:
        response.success = True
        return response

    node.create_service(trigger, "go", answer, callback_group=ros.MutuallyExclusiveCallbackGroup())
    client = node.create_client(trigger, "go", callback_group=ros.MutuallyExclusiveCallbackGroup())
    results: list[Any] = []
    timer = node.create_timer(0.01, lambda: (timer.cancel(), results.append(client.call(trigger.Request(), _LONG))))
    executor = ros.MultiThreadedExecutor(num_threads=4, context=context)
    executor.add_node(node)
    thread = _spin_in_thread(executor)
    limit = time.monotonic() + _LONG
    while not results and time.monotonic() < limit:
        time.sleep(0.005)
    assert results[0].success
    executor.shutdown()
    thread.join(_LONG)
    node.destroy_node()


@pytest.mark.skipif(ros.RUNTIME != "embedded", reason="a property of the embedded executor")
def test_dispatch_is_fast(make_node: Callable[..., Any], spinner: Any) -> None:
    """From publish() to the callback, one thread: 11 us on the author's machine; the limit leaves room for a busy one."""
    node = make_node()
    delays: list[int] = []
    node.create_subscription(String, "t", lambda message: delays.append(time.perf_counter_ns() - began), 10)
    publisher = node.create_publisher(String, "t", 10)
    message = String()
    for _ in range(300):
        began = time.perf_counter_ns()
        publisher.publish(message)
        spinner.executor.spin_once(timeout_sec=_LONG)
    assert statistics.median(delays) < 1_000_000


@pytest.mark.skipif(ros.RUNTIME != "embedded", reason="a property of the embedded executor")
def test_waiting_costs_no_processor_time(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    spinner.drain()
    before = time.thread_time()
    spinner.executor.spin_once(timeout_sec=0.3)
    assert time.thread_time() - before < 0.1


@pytest.mark.skipif(ros.RUNTIME != "embedded", reason="rclpy lets the exception through")
def test_a_callback_that_outlives_its_node_is_no_fault(make_node: Callable[..., Any], spinner: Any) -> None:
    node, sender = make_node("doomed"), make_node("sender")
    publisher = node.create_publisher(String, "out", 10)
    called: list[Any] = []

    def callback(message: Any) -> None:
        called.append(message)
        node.destroy_node()
        publisher.publish(message)

    node.create_subscription(String, "t", callback, 10)
    sender.create_publisher(String, "t", 10).publish(String())
    assert spinner.until(lambda: bool(called))
    # While the node lives it is one.
    other = make_node("other")
    dead = other.create_publisher(String, "out", 10)
    other.destroy_publisher(dead)
    other.create_timer(0.01, lambda: dead.publish(String()))
    with pytest.raises(ros.InvalidHandle):
        spinner.until(lambda: False, 10.0)


def test_own_executors_can_take_the_work(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    spinner.drain()
    got: list[Any] = []
    subscription = node.create_subscription(String, "t", got.append, 10)
    node.create_publisher(String, "t", 10).publish(String())
    task, entity, owner = spinner.executor.wait_for_ready_callbacks(timeout_sec=_LONG)
    assert (entity, owner) == (subscription, node)
    assert got == []
    task()
    assert len(got) == 1
    assert spinner.executor.can_execute(subscription)


def test_a_fast_timer_does_not_starve_subscriptions(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    ticks, got = [0], [0]

    def tick() -> None:
        ticks[0] += 1

    def count(message: Any) -> None:
        got[0] += 1

    node.create_timer(0.0, tick)
    node.create_subscription(Int32, "n", count, 100)
    publisher = node.create_publisher(Int32, "n", 100)
    for index in range(50):
        publisher.publish(Int32(data=index))
    assert spinner.until(lambda: got[0] == 50)
    assert 0 < ticks[0] < 1000


def test_groups_without_a_rule_are_refused(make_node: Callable[..., Any]) -> None:
    group = ros.CallbackGroup()
    timer = make_node().create_timer(1000.0, lambda: None, callback_group=ros.ReentrantCallbackGroup())
    group.add_entity(timer)
    assert group.has_entity(timer)


def test_executors_are_context_managers(context: Any) -> None:
    node = ros.Node("managed", context=context)
    with ros.SingleThreadedExecutor(context=context) as executor:
        executor.add_node(node)
        assert executor.context is context
    assert node.executor is None
    node.destroy_node()


def test_a_task_that_fails_raises_in_spin(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()

    async def fail() -> None:
        raise ZeroDivisionError("later")

    task = spinner.executor.create_task(fail)
    with pytest.raises(ZeroDivisionError, match="later"):
        spinner.until(task.done)
    assert isinstance(task.exception(), ZeroDivisionError)


def test_a_waiting_task_can_be_cancelled(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node()
    gate = ros.Future()
    ended: list[str] = []

    async def wait() -> None:
        try:
            await gate
        finally:
            ended.append("closed")

    task = spinner.executor.create_task(wait)
    spinner.drain()
    task.cancel()
    assert task.cancelled()
    gate.set_result(None)
    spinner.drain()
    assert ros.RUNTIME != "embedded" or ended == ["closed"]
