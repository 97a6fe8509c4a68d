"""`init`, `spin`, `shutdown` and the rest of what `import rclpy` offers directly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .context import Context, get_default_context
from .signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers
from .task import Future

if TYPE_CHECKING:
    from .executors import Executor
    from .node import Node
    from .parameter import Parameter

_executor: Executor | None = None
_executor_lock = threading.RLock()


def init(
    *,
    args: list[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> None:
    """Start a context (default: the default context), with `args` or `sys.argv`.

    Signal handlers are installed for the default context only, unless asked for. See `Context.init` for what it raises.
    """
    default = context is None or context is get_default_context()
    context = get_default_context() if context is None else context
    context.init(args, domain_id=domain_id)
    if default and signal_handler_options is None:
        signal_handler_options = SignalHandlerOptions.ALL
    if signal_handler_options is not None:
        install_signal_handlers(signal_handler_options)


def ok(*, context: Context | None = None) -> bool:
    """True while the context runs."""
    return (get_default_context() if context is None else context).ok()


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """End a context (default: the default context, and its signal handlers). Raises if it does not run."""
    chosen = get_default_context(shutting_down=True) if context is None else context
    chosen.shutdown()
    if uninstall_handlers or (uninstall_handlers is None and context is None):
        uninstall_signal_handlers()


def try_shutdown(*, context: Context | None = None) -> None:
    """End a context (default: the default context, and its signal handlers) if it runs."""
    if context is None:
        get_default_context(shutting_down=True).try_shutdown()
        uninstall_signal_handlers()
    else:
        context.try_shutdown()


def get_global_executor() -> Executor:
    """The executor of `spin()` and its relatives; a new one after each shutdown."""
    global _executor
    from .executors import SingleThreadedExecutor

    with _executor_lock:
        if _executor is None:
            _executor = SingleThreadedExecutor()
            _executor.context.on_shutdown(_forget_executor)
        return _executor


def _forget_executor() -> None:
    global _executor
    with _executor_lock:
        _executor = None


def create_node(
    node_name: str,
    *,
    context: Context | None = None,
    cli_args: list[str] | None = None,
    namespace: str | None = None,
    use_global_arguments: bool = True,
    enable_rosout: bool = True,
    start_parameter_services: bool = True,
    parameter_overrides: list[Parameter] | None = None,
    allow_undeclared_parameters: bool = False,
    automatically_declare_parameters_from_overrides: bool = False,
    enable_logger_service: bool = False,
) -> Node:
    """New node; see `Node`."""
    from .node import Node

    return Node(
        node_name,
        context=context,
        cli_args=cli_args,
        namespace=namespace,
        use_global_arguments=use_global_arguments,
        enable_rosout=enable_rosout,
        start_parameter_services=start_parameter_services,
        parameter_overrides=parameter_overrides,
        allow_undeclared_parameters=allow_undeclared_parameters,
        automatically_declare_parameters_from_overrides=automatically_declare_parameters_from_overrides,
        enable_logger_service=enable_logger_service,
    )


def spin_once(node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None) -> None:
    """Run one callback of the node."""
    executor = get_global_executor() if executor is None else executor
    try:
        executor.add_node(node)
        executor.spin_once(timeout_sec=timeout_sec)
    finally:
        executor.remove_node(node)


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run the node's callbacks until shutdown. Raises `ExternalShutdownException` when the context ends while it waits."""
    executor = get_global_executor() if executor is None else executor
    try:
        executor.add_node(node)
        while executor.context.ok():
            executor.spin_once()
    finally:
        executor.remove_node(node)


def spin_until_future_complete(
    node: Node, future: Future, executor: Executor | None = None, timeout_sec: float | None = None
) -> None:
    """Run the node's callbacks until the future is done or the time has passed."""
    executor = get_global_executor() if executor is None else executor
    try:
        executor.add_node(node)
        executor.spin_until_future_complete(future, timeout_sec)
    finally:
        executor.remove_node(node)


def get_rmw_implementation_identifier() -> str:
    """What carries messages between processes here."""
    return "bevstack_embedded_cyclonedds"
