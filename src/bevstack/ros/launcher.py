"""Runs a graph without ROS's launch package: all nodes in one process, or each in its own."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .graph import Graph, LaunchError, ResolvedNode, describe, graph_named, parse_arguments, resolve

_DRAIN_SECONDS = 30.0


def launch(name: str, args: Sequence[str], show_args: bool = False) -> int:
    """``bevstack launch NAME key:=value ...``: run a graph until it is told to stop or its source ends.

    ``processes:=true`` gives each node a process of its own.

    Returns:
        exit code: 0 after a signal or the end of the source.

    Raises:
        BevstackError: unknown graph or argument, or a node that cannot start.
    """
    graph = graph_named(name)
    if show_args:
        print(describe(graph))
        print(
            "\n    'processes':\n        each node in a process of its own (not with ros2 launch)\n        (default: 'false')"
        )
        return 0
    values = parse_arguments(args)
    processes = values.pop("processes", "false").lower() in ("true", "1")
    nodes = resolve(graph, values)
    if processes:
        return run_processes(nodes)
    return run_nodes(nodes, until_finished=values.get("loop", "false") != "true")


def run_graph(
    graph: Graph,
    values: Mapping[str, str] | None = None,
    *,
    stop: threading.Event | None = None,
    until_finished: bool = True,
    on_started: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Run a graph with these argument values in this process. See ``run_nodes``."""
    return run_nodes(resolve(graph, values or {}), stop=stop, until_finished=until_finished, on_started=on_started)


def run_nodes(
    nodes: Sequence[ResolvedNode],
    *,
    stop: threading.Event | None = None,
    until_finished: bool = True,
    on_started: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Run nodes in this process and spin until told to stop.

    Args:
        nodes: those with ``source`` are started last.
        stop: ends the run when set, from any thread.
        until_finished: end by itself when every source has sent all it has and the others have worked it off.
        on_started: called with the nodes by name, before the sources start.

    Returns:
        0.

    Raises:
        BevstackError: a node cannot be created, or the perception node cannot be configured.
    """
    from bevstack.ros import runtime
    from bevstack.ros.nodes.main import no_keyboard_interrupt

    if runtime.ok():  # somebody else's context, and signals
        return _run_nodes(nodes, stop, until_finished, on_started)
    with no_keyboard_interrupt():
        level = nodes[0].log_level if nodes else "info"
        runtime.init(args=[sys.argv[0], "--ros-args", "--log-level", level])
        try:
            return _run_nodes(nodes, stop, until_finished, on_started)
        finally:
            runtime.try_shutdown()  # also after a signal: only then can the same process start again


def _run_nodes(
    nodes: Sequence[ResolvedNode],
    stop: threading.Event | None,
    until_finished: bool,
    on_started: Callable[[Mapping[str, Any]], None] | None,
) -> int:
    from bevstack.ros import runtime

    made: dict[str, Any] = {}
    programs: list[subprocess.Popen[bytes]] = []
    executor = runtime.SingleThreadedExecutor()
    try:
        for spec in sorted(nodes, key=lambda node: node.source):
            if not spec.target:
                programs += _start_program(spec)
                continue
            made[spec.name] = node = create_node(spec)
            executor.add_node(node)
        sources = [made[spec.name] for spec in nodes if spec.source]
        for spec in nodes:
            node = made.get(spec.name)
            start = getattr(node, "autostart", None)
            if start is not None and not spec.source and not start():
                raise LaunchError(f"{spec.name} did not start: {getattr(node, 'failure', 'see its log')}")
        if on_started is not None:
            on_started(made)
        for source in sources:
            source.autostart()
        _spin(executor, made, sources, stop, until_finished)
    except (KeyboardInterrupt, runtime.ExternalShutdownException):
        pass  # the usual end
    except Exception:
        if runtime.ok():
            raise  # else a signal came while something was being published: the usual end, too
    finally:
        # Sources first, the recorder last: what is still on its way gets recorded.
        order = {spec.name: (not spec.source, spec.executable == "recorder") for spec in nodes}
        for name in sorted(made, key=lambda n: order[n]):
            made[name].destroy_node()
        for program in programs:
            program.terminate()
        executor.shutdown()
    return 0


def create_node(spec: ResolvedNode) -> Any:
    """An instance of the node's class with its name, namespace, parameters and remappings."""
    from bevstack.ros.runtime import Parameter

    module, _, name = spec.target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise LaunchError(f"{spec.name} needs {error.name or module}, which is not installed: {error}") from None
    cli_args = ["--ros-args"]
    for source, target in spec.remappings:
        cli_args += ["-r", f"{source}:={target}"]
    if spec.params_file:
        cli_args += ["--params-file", spec.params_file]
    overrides = [Parameter(key, value=value) for key, value in spec.parameters.items() if value != []]
    return factory(
        spec.name,
        namespace=spec.namespace or None,
        cli_args=cli_args if len(cli_args) > 1 else None,
        parameter_overrides=overrides,
    )


def command_line(spec: ResolvedNode) -> list[str]:
    """The command that runs a node in a process of its own."""
    if not spec.target:
        return [spec.executable, *spec.arguments]
    words = [sys.executable, "-m", spec.target.partition(":")[0], "--ros-args", "--log-level", spec.log_level]
    words += ["-r", f"__node:={spec.name}"]
    if spec.namespace:
        words += ["-r", f"__ns:={spec.namespace if spec.namespace.startswith('/') else '/' + spec.namespace}"]
    for source, target in spec.remappings:
        words += ["-r", f"{source}:={target}"]
    if spec.params_file:
        words += ["--params-file", spec.params_file]
    for key, value in spec.parameters.items():
        if value != []:
            words += ["-p", f"{key}:={json.dumps(value)}"]  # JSON is YAML, with every string quoted
    return words


def run_processes(nodes: Sequence[ResolvedNode], *, stop: threading.Event | None = None) -> int:
    """Run each node as a process; end all when one fails, when told to stop, or on SIGINT and SIGTERM.

    Returns:
        0, or the exit code of the node that failed.
    """
    ended = stop or threading.Event()
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda *_: ended.set())
    running: dict[str, subprocess.Popen[bytes]] = {}
    code = 0
    try:
        for spec in sorted(nodes, key=lambda node: node.source):
            if not spec.target and shutil.which(spec.executable) is None:
                _say_missing(spec)
                continue
            running[spec.name] = subprocess.Popen(command_line(spec), start_new_session=True)
        while not ended.wait(0.1):
            for name, process in list(running.items()):
                result = process.poll()
                if result is None:
                    continue
                del running[name]
                if result:
                    print(f"error: {name} ended with exit code {result}", file=sys.stderr)
                    code = result if result > 0 else 1
                    ended.set()
            if not running:
                break
    finally:
        _end_all(list(running.values()))
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code


def _end_all(processes: Sequence[subprocess.Popen[bytes]], patience: float = 10.0) -> None:
    """SIGINT to all, then SIGTERM, then SIGKILL to those that stay."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
        deadline = time.monotonic() + patience
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
        if all(process.poll() is not None for process in processes):
            return


def _start_program(spec: ResolvedNode) -> list[subprocess.Popen[bytes]]:
    if shutil.which(spec.executable) is None:
        _say_missing(spec)
        return []
    return [subprocess.Popen([spec.executable, *spec.arguments])]


def _say_missing(spec: ResolvedNode) -> None:
    print(f"warning: {spec.executable} is not installed (it comes with ROS 2): going on without it", file=sys.stderr)


def _spin(
    executor: Any, nodes: Mapping[str, Any], sources: Sequence[Any], stop: threading.Event | None, until_finished: bool
) -> None:
    """Spin until stopped; with ``until_finished`` until the sources are at their end and the other nodes idle."""
    from bevstack.ros.runtime import ok

    drained: float | None = None
    while ok() and not (stop is not None and stop.is_set()):
        executor.spin_once(timeout_sec=0.1)
        if any(getattr(node, "exit_now", False) for node in nodes.values()):
            return
        if not (until_finished and sources and all(source.finished.is_set() for source in sources)):
            continue
        now = time.monotonic()
        drained = now if drained is None else drained
        idle = all(getattr(node, "idle", True) for node in nodes.values())
        if (idle and now - drained > 0.3) or now - drained > _DRAIN_SECONDS:
            return
