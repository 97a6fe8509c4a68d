"""Message classes with rosidl's shape, and `from sensor_msgs.msg import Image` where no ROS is installed.

A class is made from its definition at first use: keyword-only constructor with defaults, constants as class attributes,
`get_fields_and_field_types()`, equality by value, repr. Numeric arrays are NumPy arrays of the exact type; whatever is
assigned (bytes, bytearray, array.array, list, NumPy) is converted or refused on assignment, without a copy where the bytes
fit. `byte` is a `bytes` of length 1. Other fields are checked when the message is serialised, as in Jazzy.
"""

from __future__ import annotations

import array
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys.base import normalize_fieldname

from bevstack.errors import BevstackError
from bevstack.ros.runtime.typestore import (
    EMPTY_MEMBER,
    FieldDesc,
    RosTypestore,
    UnknownTypeError,
    numeric_array,
    storage_name,
    typestore,
    unknown_type,
)


class MessageFieldError(BevstackError, AssertionError, TypeError):
    """A field holds something that its type cannot hold."""


class Message:
    """Base of all message classes made here."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # equal by value and mutable
    #: e.g. "sensor_msgs/msg/Image"
    __msgtype__: ClassVar[str]
    _fields_and_field_types: ClassVar[dict[str, str]]
    _descriptions: ClassVar[dict[str, FieldDesc]]

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Field name -> rosidl's name of its type, e.g. {"data": "sequence<uint8>"}."""
        return dict(cls._fields_and_field_types)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_show(getattr(self, name))}" for name in self._fields_and_field_types)
        return f"{self.__class__.__module__}.{self.__class__.__name__}({parts})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return False
        for name in self._fields_and_field_types:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, np.ndarray):
                if not np.array_equal(mine, theirs):
                    return False
            elif mine != theirs:
                return False
        return True


class Service:
    """Base of all service classes: a holder of Request, Response and Event."""

    __srvtype__: ClassVar[str]
    Request: ClassVar[type[Message]]
    Response: ClassVar[type[Message]]
    Event: ClassVar[type[Message]]

    def __init__(self) -> None:
        raise NotImplementedError("Service classes can not be instantiated")


_REPR_LIMIT = 64


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.size > _REPR_LIMIT:
            head = ", ".join(repr(item) for item in value[: _REPR_LIMIT // 2].tolist())
            return f"[{head}, ... {value.size} values]"
        return repr(value.tolist())
    return repr(value)


# Fields ----------------------------------------------------------------------------------------------------------------------

_ACCEPTED_KINDS = {"b": "b", "i": "bui", "u": "bui", "f": "buif"}


def to_array(value: Any, dtype: np.dtype[Any], length: int | None, limit: int | None, where: str) -> NDArray[Any]:
    """`value` as a flat, contiguous array of `dtype`; a view where possible.

    :param where: names the field in errors.
    :raises MessageFieldError: wrong kind of values, out of range, or wrong count.
    """
    if type(value) is not np.ndarray or value.dtype != dtype:
        value = _converted(value, dtype, where)
    if value.ndim != 1 or not value.flags.c_contiguous:
        value = np.ascontiguousarray(value).reshape(-1)
    if length is not None and value.size != length:
        raise MessageFieldError(f"{where} must have {length} values, got {value.size}")
    if limit is not None and value.size > limit:
        raise MessageFieldError(f"{where} must have at most {limit} values, got {value.size}")
    return value


def _converted(value: Any, dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        if dtype.itemsize != 1 or dtype.kind == "b":
            raise MessageFieldError(f"{where} must be a sequence of {dtype.name}, got {type(value).__name__}")
        return np.frombuffer(value, dtype) if len(value) else np.empty(0, dtype)
    if isinstance(value, array.array):
        value = np.frombuffer(value, value.typecode) if len(value) else np.empty(0, dtype)
    elif isinstance(value, (str, dict)) or not hasattr(value, "__iter__"):
        raise MessageFieldError(f"{where} must be a sequence of {dtype.name}, got {value!r}")
    elif not isinstance(value, np.ndarray):
        value = list(value)
        if not value:
            return np.empty(0, dtype)
    try:
        found = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise MessageFieldError(f"{where} must be a flat sequence of {dtype.name}: {error}") from error
    if found.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise MessageFieldError(f"{where} must be a sequence of {dtype.name}, got values of type {found.dtype.name}")
    if dtype.kind in "iu" and found.size:
        info = np.iinfo(dtype)
        low, high = int(found.min()), int(found.max())
        if low < info.min or high > info.max:
            raise MessageFieldError(f"{where} takes {info.min} to {info.max}, got {low if low < info.min else high}")
    with np.errstate(over="ignore"):
        result: NDArray[Any] = found.astype(dtype, copy=False)
    if dtype.name == "float32" and not np.array_equal(np.isinf(result), np.isinf(found)):
        raise MessageFieldError(f"{where} holds a number too large for float32")
    return result


def _array_field(
    store: Callable[[Any, Any], None], name: str, where: str, dtype: np.dtype[Any], *counts: int | None
) -> property:
    def put(self: Any, value: Any) -> None:
        store(self, to_array(value, dtype, counts[0], counts[1], where))

    return property(attrgetter(name), put)


def _octet_array_field(store: Callable[[Any, Any], None], name: str, where: str, *counts: int | None) -> property:
    """`byte[]`: a list of `bytes` of length 1, as in rosidl. Each access makes a new list, so assign instead of appending."""
    put_array = _array_field(store, name, where, np.dtype("uint8"), *counts).fset

    def get(self: Any) -> list[bytes]:
        return [_OCTETS[value] for value in getattr(self, name).tolist()]

    def put(self: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)) and value:
            if not all(isinstance(item, (bytes, bytearray)) and len(item) == 1 for item in value):
                raise MessageFieldError(f"{where} must be a list of bytes of length 1")
            value = b"".join(value)
        assert put_array is not None
        put_array(self, value)

    return property(get, put)


def _octet_field(store: Callable[[Any, Any], None], name: str, where: str) -> property:
    def get(self: Any) -> bytes:
        return _OCTETS[getattr(self, name)]

    def put(self: Any, value: Any) -> None:
        if not isinstance(value, (bytes, bytearray)) or len(value) != 1:
            raise MessageFieldError(f"{where} must be bytes of length 1 (such as DiagnosticStatus.OK), got {value!r}")
        store(self, value[0])

    return property(get, put)


_OCTETS = [bytes([value]) for value in range(256)]


def rosidl_type_name(desc: FieldDesc) -> str:
    """The type of a field as rosidl's Python classes write it."""
    kind, argument = desc
    if kind == Nodetype.BASE:
        name, bound = argument
        if name == "string" and bound:
            return f"string<{bound}>"
        return {"bool": "boolean", "byte": "octet", "float32": "float", "float64": "double"}.get(name, name)
    if kind == Nodetype.NAME:
        package, _, short = argument.split("/")
        return f"{package}/{short}"
    inner, count = argument
    if kind == Nodetype.ARRAY:
        return f"{rosidl_type_name(inner)}[{count}]"
    return f"sequence<{rosidl_type_name(inner)}{f', {count}' if count else ''}>"


def _default(store: RosTypestore, desc: FieldDesc) -> Any:
    """A zero value, or a function that makes a fresh one where values are mutable."""
    kind, argument = desc
    numbers = numeric_array(desc)
    if numbers:
        return partial(np.zeros, numbers[1] or 0, np.dtype(numbers[0]))
    if kind == Nodetype.BASE:
        name = argument[0]
        if name == "string":
            return ""
        if name == "byte":
            return b"\x00"
        return False if name == "bool" else 0.0 if name.startswith("float") else 0
    if kind == Nodetype.NAME:
        return _class(store, argument)
    inner, count = argument
    if kind == Nodetype.SEQUENCE:
        return list
    item = _default(store, inner)
    return lambda: [item() if callable(item) else item for _ in range(count)]


# Classes ---------------------------------------------------------------------------------------------------------------------

_UNSET: Any = object()
_classes: dict[tuple[str, str], type[Any]] = {}
_lock = threading.RLock()


def _class(store: RosTypestore, name: str) -> type[Any]:
    key = (store.distribution, name)
    found = _classes.get(key)
    if found is None:
        if name not in store.fielddefs:
            raise UnknownTypeError(unknown_type(name, store))
        with _lock:
            found = _classes.get(key)
            if found is None:
                found = _classes[key] = _build_service(store, name) if _is_service(store, name) else _build(store, name)
    return found


def _is_service(store: RosTypestore, name: str) -> bool:
    return "/srv/" in name and f"{name}_Request" in store.fielddefs


def _build_service(store: RosTypestore, name: str) -> type[Any]:
    package, _, short = name.split("/")
    parts = {
        part: _class(store, f"{name}_{part}")
        for part in ("Request", "Response", "Event")
        if f"{name}_{part}" in store.fielddefs
    }
    return type(short, (Service,), {"__srvtype__": name, "__module__": f"{package}.srv", **parts})


def _build(store: RosTypestore, name: str) -> type[Any]:
    constants: Any
    constants, all_fields = store.fielddefs[name]
    package, kind, short = name.split("/")
    fields = [(normalize_fieldname(field), desc) for field, desc in all_fields if field != EMPTY_MEMBER]
    namespace: dict[str, Any] = {
        "__slots__": tuple(storage_name(field, desc) for field, desc in all_fields),
        "__module__": f"{package}.{kind}",
        "__msgtype__": name,
        "_fields_and_field_types": {field: rosidl_type_name(desc) for field, desc in fields},
        "_descriptions": dict(fields),
        "__init__": _make_init(store, name, fields, hidden=len(fields) != len(all_fields)),
    }
    for constant, base, value in constants:
        if base == "byte":
            value = _OCTETS[value & 255]
        elif base == "bool":
            value = bool(value)
        namespace[constant] = value
    cls = type(short, (Message,), namespace)
    for field, desc in fields:
        where, slot = f"{name}.{field}", storage_name(field, desc)
        numbers = numeric_array(desc)
        if numbers:
            store_value = getattr(cls, slot).__set__
            if desc[1][0][1][0] == "byte":
                setattr(cls, field, _octet_array_field(store_value, slot, where, numbers[1], numbers[2]))
                continue
            setattr(cls, field, _array_field(store_value, slot, where, np.dtype(numbers[0]), numbers[1], numbers[2]))
        elif slot != field:
            setattr(cls, field, _octet_field(getattr(cls, slot).__set__, slot, where))
    return cls


def _make_init(store: RosTypestore, name: str, fields: Sequence[tuple[str, FieldDesc]], hidden: bool) -> Callable[..., None]:
    """The constructor, written as source once per class as `dataclasses` does: generic code takes three times as long."""
    scope: dict[str, Any] = {"_UNSET": _UNSET, "_unknown": _unknown_arguments, "_validate": _validate_lazily}
    arguments, body = [], []
    for field, desc in fields:
        default = store.defaults.get(name, {}).get(field, _default(store, desc))
        scope[f"_d_{field}"] = default
        make = f"_d_{field}()" if callable(default) else f"_d_{field}"
        if numeric_array(desc):  # a fresh default needs no check: straight into the slot
            body.append(f" if {field} is _UNSET: self.{storage_name(field, desc)} = {make}\n else: self.{field} = {field}")
        else:
            body.append(f" self.{field} = {make} if {field} is _UNSET else {field}")
        arguments.append(f"{field}=_UNSET")
    if hidden:
        body.append(f" self.{EMPTY_MEMBER} = 0")
    lines = [
        f"def __init__(self, *, {', '.join([*arguments, 'check_fields=None', '**unknown'])}):",
        " if unknown: _unknown(self, unknown)",
        *body,
        " if check_fields: _validate(self)",
    ]
    exec("\n".join(lines), scope)
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{name.rsplit('/', 1)[1]}.__init__"
    return init


def _unknown_arguments(message: Message, unknown: dict[str, Any]) -> None:
    names, known = ", ".join(sorted(unknown)), ", ".join(message.get_fields_and_field_types())
    raise MessageFieldError(
        f"Invalid arguments passed to constructor: {names} ({message.__msgtype__} has {known or 'no fields'})"
    )


def _validate_lazily(message: Message) -> None:
    validate(message)


def constructor_from_wire(name: str, store: RosTypestore) -> Callable[..., Any]:
    """A function from the values of all fields, as the parser reads them, to a message.

    Fixed arrays are copied: they are small, may be written to as in rclpy, and must not keep a large received buffer alive.
    """
    if _is_service(store, name):
        raise UnknownTypeError(f"{name} is a service: serialise its Request or Response")
    cls = _class(store, name)
    body, names = [], []
    for index, (field, desc) in enumerate(store.fielddefs[name][1]):
        value = f"v{index}"
        copied = ".copy()" if desc[0] == Nodetype.ARRAY and numeric_array(desc) else ""
        names.append(value)
        body.append(f" self.{storage_name(field, desc)} = {value}{copied}")
    scope: dict[str, Any] = {"cls": cls, "new": cls.__new__}
    exec("\n".join([f"def make({', '.join(names)}):", " self = new(cls)", *body, " return self"]), scope)
    make: Callable[..., Any] = scope["make"]
    return make


def message_class(name: str) -> type[Any]:
    """The class of a message ("sensor_msgs/msg/Image"), a service ("std_srvs/srv/Trigger") or its part ("…/Trigger_Request").

    :raises UnknownTypeError: no such type.
    """
    if name.count("/") == 1:
        name = name.replace("/", "/msg/")
    if name.count("/") != 2:
        raise UnknownTypeError(f"type {name!r} is not of the form package/msg/Name")
    return _class(typestore(), name)


def type_name(cls: Any) -> str:
    """ "sensor_msgs/msg/Image" of a message class or message, of this module or of real rosidl.

    :raises UnknownTypeError: not a message or service class.
    """
    if not isinstance(cls, type):
        cls = type(cls)
    for attribute in ("__msgtype__", "__srvtype__"):
        known = getattr(cls, attribute, None)
        if isinstance(known, str):
            return known
    parts = cls.__module__.split(".")
    if len(parts) >= 2 and parts[1] in ("msg", "srv", "action"):  # rosidl: sensor_msgs.msg._image
        return f"{parts[0]}/{parts[1]}/{cls.__name__}"
    raise UnknownTypeError(f"{cls.__module__}.{cls.__qualname__} is not a ROS message or service class")


# Checks ----------------------------------------------------------------------------------------------------------------------

_INTEGER_LIMITS = {f"{sign}int{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
                   for sign in ("", "u") for bits in (8, 16, 32, 64)}  # fmt: skip


def validate(message: Message) -> None:
    """Checks every field against its type, nested ones too.

    :raises MessageFieldError: names the field, its value and what it takes.
    """
    _validate_message(message, message.__msgtype__)


def _validate_message(message: Message, where: str) -> None:
    for field, desc in message._descriptions.items():
        try:
            value = getattr(message, field)
        except AttributeError as error:
            raise MessageFieldError(f"{where}.{field} is not set") from error
        _validate_value(value, desc, f"{where}.{field}")


def _validate_value(value: Any, desc: FieldDesc, where: str) -> None:
    kind, argument = desc
    if kind == Nodetype.BASE:
        _validate_base(value, argument[0], argument[1], where)
    elif kind == Nodetype.NAME:
        if getattr(type(value), "__msgtype__", None) != argument:
            raise MessageFieldError(f"{where} must be a {argument}, got {value!r}")
        _validate_message(value, where)
    elif not numeric_array(desc):  # those were checked when they were assigned
        inner, count = argument
        if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
            raise MessageFieldError(f"{where} must be a sequence, got {value!r}")
        if kind == Nodetype.ARRAY and len(value) != count:
            raise MessageFieldError(f"{where} must have {count} values, got {len(value)}")
        if kind == Nodetype.SEQUENCE and count and len(value) > count:
            raise MessageFieldError(f"{where} must have at most {count} values, got {len(value)}")
        for index, item in enumerate(value):
            _validate_value(item, inner, f"{where}[{index}]")


def _validate_base(value: Any, name: str, bound: int, where: str) -> None:
    if name == "string":
        if not isinstance(value, str):
            raise MessageFieldError(f"{where} must be a str, got {value!r}")
        if bound and len(value.encode(errors="replace")) > bound:
            raise MessageFieldError(f"{where} must have at most {bound} bytes, got {len(value)}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise MessageFieldError(f"{where} cannot be written as UTF-8: {error.reason}") from error
    elif name == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise MessageFieldError(f"{where} must be a bool, got {value!r}")
    elif name in _INTEGER_LIMITS:
        low, high = _INTEGER_LIMITS[name]
        if not isinstance(value, (int, np.integer)):
            raise MessageFieldError(f"{where} must be an int, got {value!r}")
        if not low <= value <= high:
            raise MessageFieldError(f"{where} takes {low} to {high}, got {value}")
    elif name.startswith("float"):
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise MessageFieldError(f"{where} must be a float, got {value!r}")
        if name == "float32" and np.isfinite(value) and abs(float(value)) > float(np.finfo(np.float32).max):
            raise MessageFieldError(f"{where} holds {value}, too large for float32")


# Import finder ---------------------------------------------------------------------------------------------------------------


class _MessageFinder:
    """Makes `<package>`, `<package>.msg` and `<package>.srv` importable. Last in line, so that an installed ROS wins."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, kind = fullname.partition(".")
        if kind not in ("", "msg", "srv"):
            return None
        store = typestore()
        wanted = f"{package}/{kind}/" if kind else f"{package}/"
        if not any(name.startswith(wanted) for name in store.fielddefs):
            return None
        if kind and not isinstance(getattr(sys.modules.get(package), "__loader__", None), _MessageFinder):
            return None  # part of a package that something else provides
        return importlib.machinery.ModuleSpec(fullname, self, origin="bevstack.ros.runtime.messages", is_package=not kind)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        package, _, kind = module.__name__.partition(".")
        if not kind:
            return
        prefix = f"{package}/{kind}/"

        def names() -> list[str]:
            found = (name.removeprefix(prefix) for name in typestore().fielddefs if name.startswith(prefix))
            return sorted(name for name in found if not name.endswith(("_Request", "_Response", "_Event")))

        def lookup(name: str) -> Any:
            if f"{prefix}{name}" not in typestore().fielddefs:
                raise AttributeError(
                    f"module {module.__name__!r} has no attribute {name!r}: {package} has {', '.join(names()[:12])}"
                )
            cls = message_class(prefix + name)
            setattr(module, name, cls)
            return cls

        module.__getattr__ = lookup  # type: ignore[method-assign]
        module.__dir__ = names  # type: ignore[method-assign,assignment]
        module.__all__ = names()  # type: ignore[attr-defined]


def install_finder() -> None:
    """Makes `from sensor_msgs.msg import Image` work without ROS; calling it again changes nothing."""
    if not any(isinstance(finder, _MessageFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MessageFinder())  # type: ignore[arg-type]
