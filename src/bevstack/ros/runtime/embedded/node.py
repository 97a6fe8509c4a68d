"""Nodes: names, endpoints, parameters, clock and logger in one place, as in rclpy."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..duration import Duration
from ..messages import message_class, type_name
from ..qos import (
    DurabilityPolicy,
    QoSProfile,
    as_qos_profile,
    qos_profile_parameter_events,
    qos_profile_services_default,
)
from ..wire import RemoteEndpoint
from .callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from .client import Client
from .clock import Clock, ROSClock
from .context import Context, get_default_context
from .endpoint_info import TopicEndpointInfo, TopicEndpointTypeEnum
from .entity import Entity, Owner
from .event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from .exceptions import InvalidHandle, NodeNameNonExistentError, NotInitializedException, RCLError
from .graph import EndpointContext, Hub
from .guard_condition import GuardCondition
from .logging import RcutilsLogger, add_rosout, get_logger, remove_rosout
from .logging_service import LoggingService
from .names import (
    Remap,
    expand_topic_name,
    remap_name,
    remap_node,
    validate_full_topic_name,
    validate_namespace,
    validate_node_name,
    validate_topic_name,
)
from .node_parameters import NodeParameters
from .parameter import Parameter
from .parameter_service import ParameterService
from .publisher import Publisher
from .qos_overriding_options import QoSOverridingOptions, declare_qos_parameters
from .service import Service
from .subscription import Subscription
from .time_source import TimeSource
from .timer import Rate, Timer

if TYPE_CHECKING:
    from .arguments import RosArguments
    from .executors import Executor

_ROSOUT_QOS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10))


def check_is_valid_msg_type(msg_type: Any) -> None:
    """Raises AttributeError, with the likely mistake, for anything but a ROS 2 message class."""
    try:
        valid = type_name(msg_type).split("/")[1] in ("msg", "srv", "action")
    except (AttributeError, IndexError, TypeError, ValueError):
        valid = False
    if not valid or not isinstance(msg_type, type):
        raise AttributeError(
            f"{msg_type!r} is no ROS 2 message class. Give the class itself, as in `from std_msgs.msg import String`"
        )


def check_is_valid_srv_type(srv_type: Any) -> None:
    """Raises AttributeError for anything but a ROS 2 service class."""
    if not (hasattr(srv_type, "Request") and hasattr(srv_type, "Response")):
        raise AttributeError(
            f"{srv_type!r} is no ROS 2 service class. Give the class itself, as in `from std_srvs.srv import Trigger`"
        )


class Node(NodeParameters):
    """A node. Derive from it, or use one as it is.

    Raises `NotInitializedException` without a running context, `InvalidNodeNameException`, `InvalidNamespaceException`.
    """

    def __init__(
        self,
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
    ) -> None:
        from .arguments import parse_arguments

        self._context = get_default_context() if context is None else context
        if not self._context.ok() or self._context._hub is None:
            raise NotInitializedException("cannot create node")
        self._hub: Hub = self._context._hub
        self._owner = Owner()
        self._lock = threading.RLock()
        self._destroyed = False
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._clients: list[Client] = []
        self._services: list[Service] = []
        self._timers: list[Timer] = []
        self._guards: list[GuardCondition] = []
        self._rates: list[Rate] = []
        self._default_callback_group = MutuallyExclusiveCallbackGroup()
        self._rate_group = ReentrantCallbackGroup()

        # Arguments of this node come before those of the process.
        sources: list[RosArguments] = []
        if cli_args is not None:
            words = list(cli_args)
            sources.append(parse_arguments(words if "--ros-args" in words else ["--ros-args", *words]))
        if use_global_arguments:
            sources.append(self._context._arguments)
        self._remaps: list[Remap] = [rule for source in sources for rule in source.remaps]
        namespace = namespace or "/"
        namespace = namespace if namespace.startswith("/") else f"/{namespace}"
        self._name, self._namespace = remap_node(self._remaps, node_name, namespace)
        validate_node_name(self._name)
        validate_namespace(self._namespace)
        self._logger = get_logger(self.get_fully_qualified_name().strip("/").replace("/", "."))

        overrides: dict[str, Parameter] = {}
        for source in reversed(sources):
            for rule in source.parameters:
                if rule.matches(self.get_fully_qualified_name()):
                    overrides.update({key: _override(key, value) for key, value in rule.values.items()})
        for parameter in parameter_overrides or []:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"parameter_overrides must be a list of Parameter, got {parameter!r}")
            overrides[parameter.name] = parameter
        self._init_parameters(allow_undeclared_parameters, overrides)

        self._clock = ROSClock()
        self._rosout_publisher: Publisher | None = None
        self._time_source: TimeSource | None = None
        self._hub.add_node(self)
        self._context._nodes.add(self)
        try:
            if enable_rosout and all(source.outputs["rosout"] for source in sources):
                self._start_rosout()
            self._parameter_event_publisher = self.create_publisher(
                message_class("rcl_interfaces/msg/ParameterEvent"), "/parameter_events", qos_profile_parameter_events
            )
            self._time_source = TimeSource(node=self)
            self._time_source.attach_clock(self._clock)
            if automatically_declare_parameters_from_overrides:
                self._declare_overrides()
            if start_parameter_services:
                self._parameter_service = ParameterService(self)
            if enable_logger_service:
                self._logger_service = LoggingService(self)
        except BaseException:
            self.destroy_node()  # half a node must not stay in the graph
            raise

    def _start_rosout(self) -> None:
        self._rosout_publisher = self.create_publisher(message_class("rcl_interfaces/msg/Log"), "/rosout", _ROSOUT_QOS)
        add_rosout(self._logger.name, self._rosout_publisher)

    def _declare_overrides(self) -> None:
        descriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")(dynamic_typing=True)
        entries = [
            (name, parameter.value, descriptor)
            for name, parameter in self._parameter_overrides.items()
            if name not in self._parameters
        ]
        self.declare_parameters("", entries, ignore_override=True)

    # identity ----------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """The context it lives in."""
        return self._context

    @property
    def handle(self) -> Node:
        """The node itself: the embedded runtime has no lower layer."""
        return self

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The mutually exclusive group of everything that is made without one."""
        return self._default_callback_group

    @property
    def executor(self) -> Executor | None:
        """The executor that spins it, or None."""
        return self._owner.executor

    @executor.setter
    def executor(self, new_executor: Executor | None) -> None:
        current = self._owner.executor
        if current is new_executor:
            return
        if current is not None:
            current.remove_node(self)
        if new_executor is not None:
            new_executor.add_node(self)

    @property
    def publishers(self) -> Iterator[Publisher]:
        """Its publishers."""
        yield from list(self._publishers)

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Its subscriptions."""
        yield from list(self._subscriptions)

    @property
    def clients(self) -> Iterator[Client]:
        """Its clients."""
        yield from list(self._clients)

    @property
    def services(self) -> Iterator[Service]:
        """Its services."""
        yield from list(self._services)

    @property
    def timers(self) -> Iterator[Timer]:
        """Its timers."""
        yield from list(self._timers)

    @property
    def guards(self) -> Iterator[GuardCondition]:
        """Its guard conditions."""
        yield from list(self._guards)

    def get_name(self) -> str:
        """Name without namespace."""
        return self._name

    def get_namespace(self) -> str:
        """Namespace, `/` for none."""
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        """Namespace and name."""
        return f"{self._namespace.rstrip('/')}/{self._name}"

    def get_clock(self) -> Clock:
        """Its ROS clock."""
        return self._clock

    def get_logger(self) -> RcutilsLogger:
        """Its logger."""
        return self._logger

    _logger: RcutilsLogger

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Fully qualified and, unless `only_expand`, remapped name. Raises `InvalidTopicNameException`."""
        return self._resolve(topic, is_service=False, only_expand=only_expand)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """Fully qualified and, unless `only_expand`, remapped name. Raises `InvalidServiceNameException`."""
        return self._resolve(service, is_service=True, only_expand=only_expand)

    def _resolve(self, name: str, *, is_service: bool, only_expand: bool = False) -> str:
        validate_topic_name(name, is_service=is_service)
        full = expand_topic_name(name, self._name, self._namespace)
        validate_full_topic_name(full, is_service=is_service)
        if only_expand:
            return full
        return remap_name(self._remaps, full, self._name, self._namespace, is_service=is_service)

    # making and destroying endpoints -----------------------------------------------------------------------------------

    def _check_alive(self, what: str) -> None:
        if self._destroyed:
            raise InvalidHandle(f"cannot create a {what}: node '{self._name}' was destroyed")
        if not self._context.ok():
            raise RCLError(f"Failed to create {what}: the context of node '{self._name}' is invalid")

    def _keep(self, endpoints: list[Any], endpoint: Any) -> None:
        with self._lock:
            endpoints.append(endpoint)
        if not self._context.ok():  # it ended meanwhile, and knew nothing of this endpoint
            endpoint._detach()

    def _wake_executor(self) -> None:
        executor = self._owner.executor
        if executor is not None:
            executor.wake()

    def create_publisher(
        self,
        msg_type: Any,
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: PublisherEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        publisher_class: type[Publisher] = Publisher,
    ) -> Publisher:
        """New publisher. `qos_profile` may be the depth of the history. Raises AttributeError (type), name exceptions."""
        self._check_alive("publisher")
        qos_profile = copy.copy(as_qos_profile(qos_profile))  # the caller may change its own later
        group = callback_group or self._default_callback_group
        check_is_valid_msg_type(msg_type)
        full_name = self.resolve_topic_name(topic)
        if qos_overriding_options is not None:
            qos_profile = declare_qos_parameters(self, "publisher", full_name, qos_profile, qos_overriding_options)
        publisher = publisher_class(
            EndpointContext(self, full_name), msg_type, topic, qos_profile, event_callbacks or PublisherEventCallbacks(), group
        )
        self._keep(self._publishers, publisher)
        for handler in publisher.event_handlers:
            group.add_entity(handler)
            self._wake_entity(handler)
        return publisher

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: SubscriptionEventCallbacks | None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        raw: bool = False,
    ) -> Subscription:
        """New subscription: `callback(message)` or `callback(message, info)`; with `raw` the message is its CDR bytes."""
        self._check_alive("subscription")
        qos_profile = copy.copy(as_qos_profile(qos_profile))  # the caller may change its own later
        group = callback_group or self._default_callback_group
        check_is_valid_msg_type(msg_type)
        full_name = self.resolve_topic_name(topic)
        if qos_overriding_options is not None:
            qos_profile = declare_qos_parameters(self, "subscription", full_name, qos_profile, qos_overriding_options)
        subscription = Subscription(
            EndpointContext(self, full_name),
            msg_type,
            topic,
            callback,
            group,
            qos_profile,
            raw,
            event_callbacks or SubscriptionEventCallbacks(),
        )
        self._keep(self._subscriptions, subscription)
        group.add_entity(subscription)
        self._wake_entity(subscription)
        for handler in subscription.event_handlers:
            group.add_entity(handler)
            self._wake_entity(handler)
        return subscription

    def create_client(
        self,
        srv_type: Any,
        srv_name: str,
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Client:
        """New client of a service."""
        self._check_alive("client")
        group = callback_group or self._default_callback_group
        check_is_valid_srv_type(srv_type)
        context = EndpointContext(self, self.resolve_service_name(srv_name))
        client = Client(self._context, context, srv_type, srv_name, qos_profile, group)
        self._keep(self._clients, client)
        group.add_entity(client)
        return client

    def create_service(
        self,
        srv_type: Any,
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        *,
        qos_profile: QoSProfile = qos_profile_services_default,
        callback_group: CallbackGroup | None = None,
    ) -> Service:
        """New service: `callback(request, response)` gives the response."""
        self._check_alive("service")
        group = callback_group or self._default_callback_group
        check_is_valid_srv_type(srv_type)
        context = EndpointContext(self, self.resolve_service_name(srv_name))
        service = Service(context, srv_type, srv_name, callback, group, qos_profile)
        self._keep(self._services, service)
        group.add_entity(service)
        self._wake_entity(service)
        return service

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[..., Any],
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """New timer on `clock` (default: the node's)."""
        group = callback_group or self._default_callback_group
        timer = Timer(
            callback,
            group,
            int(float(timer_period_sec) * 1e9),
            clock or self._clock,
            context=self._context,
            autostart=autostart,
        )
        timer._owner = self._owner
        group.add_entity(timer)
        with self._lock:
            self._timers = [*self._timers, timer]
        self._wake_executor()
        return timer

    def create_guard_condition(
        self, callback: Callable[..., Any], callback_group: CallbackGroup | None = None
    ) -> GuardCondition:
        """New guard condition."""
        group = callback_group or self._default_callback_group
        guard = GuardCondition(callback, group, context=self._context)
        guard._owner = self._owner
        group.add_entity(guard)
        with self._lock:
            self._guards.append(guard)
        return guard

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Rate:
        """New rate. Raises ValueError for a frequency that is not positive."""
        if frequency <= 0:
            raise ValueError("frequency must be > 0")
        timer = self.create_timer(1.0 / frequency, lambda: None, self._rate_group, clock)
        rate = Rate(timer, context=self._context)
        with self._lock:
            self._rates.append(rate)
        return rate

    def _wake_entity(self, entity: Entity) -> None:
        if entity._pending():
            entity._wake()

    def _forget(self, entities: list[Any], entity: Any) -> bool:
        with self._lock:
            if entity not in entities:
                return False
            entities.remove(entity)
        entity.destroy()
        self._wake_executor()
        return True

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """False if it is not this node's."""
        return self._forget(self._publishers, publisher)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """False if it is not this node's."""
        return self._forget(self._subscriptions, subscription)

    def destroy_client(self, client: Client) -> bool:
        """False if it is not this node's."""
        return self._forget(self._clients, client)

    def destroy_service(self, service: Service) -> bool:
        """False if it is not this node's."""
        return self._forget(self._services, service)

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        """False if it is not this node's."""
        return self._forget(self._guards, guard)

    def destroy_timer(self, timer: Timer) -> bool:
        """False if it is not this node's."""
        with self._lock:
            if timer not in self._timers:
                return False
            self._timers = [other for other in self._timers if other is not timer]
        timer.destroy()
        self._wake_executor()
        return True

    def destroy_rate(self, rate: Rate) -> bool:
        """False if it is not this node's."""
        with self._lock:
            if rate not in self._rates:
                return False
            self._rates.remove(rate)
        rate.destroy()
        return self.destroy_timer(rate._timer)

    def destroy_node(self) -> None:
        """Destroy the node and everything that it made. Calling it twice does no harm."""
        with self._lock:
            if self._destroyed:
                return
            self._destroyed = True
        executor = self._owner.executor
        if executor is not None:
            executor.remove_node(self)
        if self._time_source is not None:
            self._time_source.detach_node()
        if self._rosout_publisher is not None:
            remove_rosout(self._logger.name, self._rosout_publisher)
        self._parameter_event_publisher = None
        for rate in list(self._rates):
            self.destroy_rate(rate)
        for timer in list(self._timers):
            self.destroy_timer(timer)
        endpoints: list[list[Any]] = [self._subscriptions, self._services, self._clients, self._guards, self._publishers]
        for kind in endpoints:
            for entity in list(kind):
                self._forget(kind, entity)
        self._hub.remove_node(self)
        self._context._nodes.discard(self)

    def _detach(self) -> None:
        """The context has ended: leave the graph; the objects stay until `destroy_node()`."""
        if self._rosout_publisher is not None:
            remove_rosout(self._logger.name, self._rosout_publisher)
        kinds: list[list[Any]] = [self._subscriptions, self._services, self._clients, self._publishers]
        for endpoint in (endpoint for kind in kinds for endpoint in list(kind)):
            endpoint._detach()
        self._hub.remove_node(self)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *unused: object) -> None:
        self.destroy_node()

    def _entities(self) -> list[Entity]:
        """Everything an executor may run, timers left out: it looks at those itself."""
        with self._lock:
            entities: list[Entity] = [*self._subscriptions, *self._services, *self._clients, *self._guards]
            for publisher in self._publishers:
                entities.extend(publisher.event_handlers)
            for subscription in self._subscriptions:
                entities.extend(subscription.event_handlers)
        return entities

    # the graph ---------------------------------------------------------------------------------------------------------

    def count_publishers(self, topic_name: str) -> int:
        """Publishers on a topic in the whole graph."""
        name = self.resolve_topic_name(topic_name)
        return len(self._hub.publishers(name)) + self._hub.wire.count_publishers(name)

    def count_subscribers(self, topic_name: str) -> int:
        """Subscriptions to a topic in the whole graph."""
        name = self.resolve_topic_name(topic_name)
        return len(self._hub.subscriptions(name)) + self._hub.wire.count_subscribers(name)

    def count_clients(self, service_name: str) -> int:
        """Clients of a service in the whole graph."""
        name = self.resolve_service_name(service_name)
        return len(self._hub.clients(name)) + self._hub.wire.count_clients(name)

    def count_services(self, service_name: str) -> int:
        """Services of that name in the whole graph."""
        name = self.resolve_service_name(service_name)
        return len(self._hub.services(name)) + self._hub.wire.count_services(name)

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """Topics of the whole graph with their types, sorted."""
        return sorted((name, sorted(types)) for name, types in self._hub.topic_types().items())

    def get_service_names_and_types(self) -> list[tuple[str, list[str]]]:
        """Services of the whole graph with their types, sorted."""
        return sorted((name, sorted(types)) for name, types in self._hub.service_types().items())

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        """Nodes of the whole graph."""
        local = [(node.get_name(), node.get_namespace()) for node in self._hub.nodes()]
        return local + list(self._hub.wire.node_names_and_namespaces())

    def get_node_names_and_namespaces_with_enclaves(self) -> list[tuple[str, str, str]]:
        """Nodes of the whole graph with their enclaves (always `/`: no security)."""
        return [(name, namespace, "/") for name, namespace in self.get_node_names_and_namespaces()]

    def get_node_names(self) -> list[str]:
        """Names of all nodes."""
        return [name for name, _ in self.get_node_names_and_namespaces()]

    def get_fully_qualified_node_names(self) -> list[str]:
        """Fully qualified names of all nodes."""
        return [f"{namespace.rstrip('/')}/{name}" for name, namespace in self.get_node_names_and_namespaces()]

    def _find_node(self, node_name: str, node_namespace: str) -> Node | None:
        """The node of this process, or None for one of another. Raises `NodeNameNonExistentError` when there is none at all."""
        wanted = (node_name, node_namespace)
        for node in self._hub.nodes():
            if (node.get_name(), node.get_namespace()) == wanted:
                return node
        if wanted in self._hub.wire.node_names_and_namespaces():
            return None
        raise NodeNameNonExistentError(f"Cannot get names and types for nonexistent node '{node_name}' in '{node_namespace}'")

    def _remote_names_and_types(
        self, node: tuple[str, str], describe: Callable[[str], list[RemoteEndpoint]]
    ) -> list[tuple[str, list[str]]]:
        found: dict[str, set[str]] = {}
        for topic in self._hub.wire.topic_names_and_types():
            for endpoint in describe(topic):
                if endpoint.node == node:
                    found.setdefault(topic, set()).add(endpoint.type_name)
        return sorted((name, sorted(types)) for name, types in found.items())

    @staticmethod
    def _names_and_types(endpoints: Any) -> list[tuple[str, list[str]]]:
        found: dict[str, set[str]] = {}
        for endpoint in endpoints:
            found.setdefault(endpoint._full_name, set()).add(endpoint._type_name)
        return sorted((name, sorted(types)) for name, types in found.items())

    def get_publisher_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """What a node publishes. Raises `NodeNameNonExistentError`."""
        node = self._find_node(node_name, node_namespace)
        if node is None:
            return self._remote_names_and_types((node_name, node_namespace), self._hub.wire.publishers_info)
        return self._names_and_types(node.publishers)

    def get_subscriber_names_and_types_by_node(
        self, node_name: str, node_namespace: str, no_demangle: bool = False
    ) -> list[tuple[str, list[str]]]:
        """What a node subscribes to. Raises `NodeNameNonExistentError`."""
        node = self._find_node(node_name, node_namespace)
        if node is None:
            return self._remote_names_and_types((node_name, node_namespace), self._hub.wire.subscriptions_info)
        return self._names_and_types(node.subscriptions)

    def get_service_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """What a node of this process serves; nothing is known of others' (empty). Raises `NodeNameNonExistentError`."""
        node = self._find_node(node_name, node_namespace)
        return [] if node is None else self._names_and_types(node.services)

    def get_client_names_and_types_by_node(self, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """What a node of this process calls; nothing is known of others' (empty). Raises `NodeNameNonExistentError`."""
        node = self._find_node(node_name, node_namespace)
        return [] if node is None else self._names_and_types(node.clients)

    def get_publishers_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """The publishers on a topic, here and elsewhere, with node and QoS."""
        name, kind = self.resolve_topic_name(topic_name), TopicEndpointTypeEnum.PUBLISHER
        here = [_info(endpoint, kind) for endpoint in self._hub.publishers(name)]
        return here + [_remote_info(endpoint, kind) for endpoint in self._hub.wire.publishers_info(name)]

    def get_subscriptions_info_by_topic(self, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """The subscriptions to a topic, here and elsewhere, with node and QoS."""
        name, kind = self.resolve_topic_name(topic_name), TopicEndpointTypeEnum.SUBSCRIPTION
        here = [_info(endpoint, kind) for endpoint in self._hub.subscriptions(name)]
        return here + [_remote_info(endpoint, kind) for endpoint in self._hub.wire.subscriptions_info(name)]

    def wait_for_node(self, fully_qualified_node_name: str, timeout: float) -> bool:
        """Wait until a node is there; False if it is not within `timeout` seconds."""
        wanted = fully_qualified_node_name
        wanted = wanted if wanted.startswith("/") else f"/{wanted}"
        limit = time.monotonic() + timeout
        while wanted not in self.get_fully_qualified_node_names():
            left = limit - time.monotonic()
            if left <= 0 or not self._context.ok():
                return False
            self._hub.wait_for_change(min(left, 0.25))
        return True


def _override(name: str, value: Any) -> Parameter:
    if value == []:
        return Parameter(name, Parameter.Type.STRING_ARRAY, [])
    return Parameter(name, value=value)


def _info(endpoint: Any, kind: TopicEndpointTypeEnum) -> TopicEndpointInfo:
    from ..hashes import type_hash

    handle = endpoint._writer if kind is TopicEndpointTypeEnum.PUBLISHER else endpoint._reader
    name, namespace = endpoint._impl.node_name
    return TopicEndpointInfo(
        node_name=name,
        node_namespace=namespace,
        topic_type=endpoint._type_name,
        topic_type_hash=type_hash(endpoint._type_name),
        endpoint_type=kind,
        endpoint_gid=list(handle.gid),
        qos_profile=endpoint.qos_profile,
    )


def _remote_info(endpoint: RemoteEndpoint, kind: TopicEndpointTypeEnum) -> TopicEndpointInfo:
    name, namespace = endpoint.node
    return TopicEndpointInfo(
        node_name=name or "_NODE_NAME_UNKNOWN_",
        node_namespace=namespace or "_NODE_NAMESPACE_UNKNOWN_",
        topic_type=endpoint.type_name,
        topic_type_hash=endpoint.type_hash,
        endpoint_type=kind,
        endpoint_gid=list(endpoint.gid),
        qos_profile=endpoint.qos,
    )
