"""Services and clients in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from bevstack.ros import runtime as ros

SetBool = ros.messages("std_srvs/srv/SetBool")
Trigger = ros.messages("std_srvs/srv/Trigger")


def _echo(request: Any, response: Any) -> Any:
    response.success = request.data
    response.message = f"was {request.data}"
    return response


def test_call_async(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node("server").create_service(SetBool, "set", _echo)
    client = make_node("client").create_client(SetBool, "set")
    assert client.wait_for_service(timeout_sec=5.0)
    futures = [client.call_async(SetBool.Request(data=data)) for data in (True, False, True)]
    assert spinner.until(lambda: all(future.done() for future in futures))
    assert [future.result().message for future in futures] == ["was True", "was False", "was True"]


def test_done_callback_runs_in_the_executor(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node("server").create_service(SetBool, "set", _echo)
    client = make_node("client").create_client(SetBool, "set")
    threads: list[Any] = []
    client.call_async(SetBool.Request()).add_done_callback(lambda future: threads.append(threading.current_thread()))
    assert spinner.until(lambda: bool(threads))
    assert threads == [threading.current_thread()]


def test_blocking_call(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node("server").create_service(SetBool, "set", _echo)
    client = make_node("client").create_client(SetBool, "set")
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(client.call(SetBool.Request(data=True), 20.0)), daemon=True)
    thread.start()
    assert spinner.until(lambda: bool(result))
    assert result[0].success
    thread.join(20.0)


def test_nobody_answers(make_node: Callable[..., Any]) -> None:
    client = make_node().create_client(Trigger, "nobody")
    assert not client.service_is_ready()
    assert not client.wait_for_service(timeout_sec=0.02)
    assert client.call(Trigger.Request(), timeout_sec=0.02) is None
    assert not client.call_async(Trigger.Request()).done()


def test_wait_for_a_service_that_comes(make_node: Callable[..., Any]) -> None:
    node = make_node()
    client = node.create_client(Trigger, "later")
    threading.Timer(0.05, lambda: node.create_service(Trigger, "later", lambda q, r: r)).start()
    assert client.wait_for_service(timeout_sec=20.0)


def test_wrong_types(make_node: Callable[..., Any], spinner: Any) -> None:
    node = make_node()
    client = node.create_client(Trigger, "x")
    with pytest.raises(TypeError):
        client.call_async(SetBool.Request())
    node.create_service(Trigger, "x", lambda request, response: "no response")
    client.call_async(Trigger.Request())
    with pytest.raises(TypeError):
        spinner.until(lambda: False, 10.0)


def test_coroutine_service(make_node: Callable[..., Any], spinner: Any) -> None:
    gate = ros.Future()

    async def serve(request: Any, response: Any) -> Any:
        response.message = await gate
        return response

    node = make_node("server")
    node.create_service(Trigger, "slow", serve, callback_group=ros.ReentrantCallbackGroup())
    future = make_node("client").create_client(Trigger, "slow").call_async(Trigger.Request())
    spinner.drain()
    assert not future.done()
    gate.set_result("at last")
    assert spinner.until(future.done)
    assert future.result().message == "at last"


def test_removed_request_is_forgotten(make_node: Callable[..., Any], spinner: Any) -> None:
    make_node("server").create_service(Trigger, "x", lambda request, response: response)
    client = make_node("client").create_client(Trigger, "x")
    future = client.call_async(Trigger.Request())
    client.remove_pending_request(future)
    spinner.drain()
    assert not future.done()


def test_destroy(make_node: Callable[..., Any]) -> None:
    node = make_node()
    service = node.create_service(Trigger, "x", lambda request, response: response)
    client = node.create_client(Trigger, "x")
    assert client.service_is_ready()
    assert (node.count_services("x"), node.count_clients("x")) == (1, 1)
    assert ("/x", ["std_srvs/srv/Trigger"]) in node.get_service_names_and_types()
    assert node.destroy_service(service)
    assert not client.service_is_ready()
    assert node.destroy_client(client)
    assert node.count_clients("x") == 0
    with pytest.raises(ros.InvalidHandle):
        client.call_async(Trigger.Request())


def test_an_answer_that_comes_too_late_is_dropped(make_node: Callable[..., Any], spinner: Any) -> None:
    answers: list[Any] = []
    server = make_node("server")

    def serve(request: Any, response: Any) -> Any:
        answers.append(response)
        return response

    server.create_service(Trigger, "x", serve)
    node = make_node("client")
    client = node.create_client(Trigger, "x")
    future = client.call_async(Trigger.Request())
    node.destroy_client(client)
    assert spinner.until(lambda: bool(answers))
    spinner.drain()
    assert not future.done()
