"""All message and service types this product knows, as one rosbags type store per ROS distribution.

rosbags carries the standard packages. It has no service types and none of vision_msgs, foxglove_msgs and stack_msgs: those are
read from `ros/msgs/<package>/{msg,srv}`. Three facts of the real thing are corrected here: `char` is `uint8` in type
descriptions (and so in hashes), `byte` is unsigned on the wire, and a service has three types (request, response, event)
besides its own name.
"""

from __future__ import annotations

import os
import re
import threading
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Msgdef, Nodetype
from rosbags.serde.cdr import generate_deserialize_cdr, generate_getsize_cdr, generate_serialize_cdr
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

from bevstack.errors import BevstackError

#: Kind and argument, as in rosbags: (BASE, (name, string bound)), (NAME, type), (ARRAY or SEQUENCE, (inner, count)).
FieldDesc = Any

DISTRIBUTIONS = {
    "humble": Stores.ROS2_HUMBLE,
    "iron": Stores.ROS2_IRON,
    "jazzy": Stores.ROS2_JAZZY,
    "kilted": Stores.ROS2_KILTED,
}

#: The member that rosidl puts into an empty structure, because C has none. Never visible in Python.
EMPTY_MEMBER = "structure_needs_at_least_one_member"
_EMPTY = [(EMPTY_MEMBER, (Nodetype.BASE, ("uint8", 0)))]

#: Defaults other than zero in the packages that rosbags carries (it keeps types, not default values).
DEFAULTS: dict[str, dict[str, Any]] = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}

#: `type field default` in .msg text (rosbags reads types and constants, and forgets default values).
_DEFAULT_VALUE = re.compile(r"^[ \t]*[\w/<=\[\]]+[ \t]+([a-z]\w*)[ \t]+([^\s=].*?)[ \t]*$", re.MULTILINE)

#: Numeric base types and their NumPy names. `byte` is one raw octet.
NUMPY_NAMES = {
    "bool": "bool",
    "byte": "uint8",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "float32": "float32",
    "float64": "float64",
}


class UnknownTypeError(BevstackError, ValueError):
    """No definition of this message or service type."""


def _without_char(desc: FieldDesc) -> FieldDesc:
    kind, argument = desc
    if kind == Nodetype.BASE:
        return (kind, ("uint8", 0)) if argument[0] == "char" else desc
    if kind == Nodetype.NAME:
        return desc
    return (kind, (_without_char(argument[0]), argument[1]))


def _octet_as_uint8(desc: FieldDesc) -> FieldDesc:
    kind, argument = desc
    if kind == Nodetype.BASE:
        return (kind, ("uint8", 0)) if argument[0] == "byte" else desc
    if kind == Nodetype.NAME:
        return desc
    return (kind, (_octet_as_uint8(argument[0]), argument[1]))


def numeric_array(desc: FieldDesc) -> tuple[str, int | None, int | None] | None:
    """(NumPy name, exact length, greatest length) of an array or sequence of numbers, else None."""
    kind, argument = desc
    if kind not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return None
    inner, count = argument
    if inner[0] != Nodetype.BASE or inner[1][0] not in NUMPY_NAMES:
        return None
    name = NUMPY_NAMES[inner[1][0]]
    return (name, count, None) if kind == Nodetype.ARRAY else (name, None, count or None)


def storage_name(field: str, desc: FieldDesc) -> str:
    """The attribute that holds the value in wire form: `_x` where the public attribute converts (numeric arrays, `byte`)."""
    name = normalize_fieldname(field)
    if numeric_array(desc) or desc == (Nodetype.BASE, ("byte", 0)):
        return "_" + name
    return name


class RosTypestore(Typestore):
    """A rosbags type store whose message classes are those of `messages.py`."""

    def __init__(self, distribution: str) -> None:
        super().__init__()
        self.distribution = distribution
        self.lock = threading.RLock()
        #: Field values other than zero of a new message: type -> field -> value
        self.defaults: dict[str, dict[str, Any]] = {name: dict(values) for name, values in DEFAULTS.items()}
        base = get_typestore(DISTRIBUTIONS[distribution])
        for name, (constants, fields) in base.fielddefs.items():
            self._define(name, constants, fields)
        for package in sorted(Path(str(files("bevstack.ros") / "msgs")).iterdir()):
            if package.is_dir():
                self.define_package(package)

    def _define(self, name: str, constants: Any, fields: Any) -> None:
        described: Any = [(field, _without_char(desc)) for field, desc in fields] or list(_EMPTY)
        self.fielddefs[name] = (constants, described)

    def define_package(self, folder: Path) -> None:
        """Adds the .msg and .srv files of one package folder (`<name>/msg`, `<name>/srv`); known types are kept."""
        for file in sorted(folder.glob("msg/*.msg")):
            self.define_message(f"{folder.name}/msg/{file.stem}", file.read_text())
        for file in sorted(folder.glob("srv/*.srv")):
            self.define_service(f"{folder.name}/srv/{file.stem}", file.read_text())

    def define_message(self, name: str, text: str) -> None:
        """Adds one type from .msg text, unless it is known. `name` may also be that of a service part ("p/srv/X_Request")."""
        if name in self.fielddefs:
            return
        package, _, short = name.split("/")
        # rosbags resolves names for messages only; short type names inside a service also mean <package>/msg.
        constants, fields = get_types_from_msg(text, f"{package}/msg/{short}")[f"{package}/msg/{short}"]
        self._define(name, constants, fields)
        defaults = {found[1]: yaml.safe_load(found[2]) for found in _DEFAULT_VALUE.finditer(re.sub("#.*", "", text))}
        if defaults:
            self.defaults[name] = defaults

    def define_service(self, name: str, text: str) -> None:
        """Adds request, response, event and the service itself from .srv text.

        :raises UnknownTypeError: the text is not two parts divided by a line `---`.
        """
        parts = ("\n" + text).split("\n---")
        if len(parts) != 2:
            raise UnknownTypeError(
                f"{name}: a .srv file has a request and a response divided by one line ---, not {len(parts)} parts"
            )
        for part, body in zip(("Request", "Response"), parts, strict=True):
            self.define_message(f"{name}_{part}", body.lstrip("\n-") + "\n")
        if "service_msgs/msg/ServiceEventInfo" not in self.fielddefs:
            return  # Humble has no service introspection, and no hashes
        sequence = [
            (part.lower(), (Nodetype.SEQUENCE, ((Nodetype.NAME, f"{name}_{part}"), 1))) for part in ("Request", "Response")
        ]
        self._define(f"{name}_Event", [], [("info", (Nodetype.NAME, "service_msgs/msg/ServiceEventInfo")), *sequence])
        members = [(f"{part.lower()}_message", (Nodetype.NAME, f"{name}_{part}")) for part in ("Request", "Response", "Event")]
        self._define(name, [], members)

    def get_msgdef(self, typename: str) -> Msgdef[object]:
        """Serialiser and parser of a type, made at first use (CDR only).

        :raises UnknownTypeError: no such type.
        """
        found = self.cache.get(typename)
        if found is not None:
            return found
        if typename not in self.fielddefs:
            raise UnknownTypeError(unknown_type(typename, self))
        with self.lock:
            if typename not in self.cache:
                from bevstack.ros.runtime.messages import constructor_from_wire

                entries = [(storage_name(name, desc), _octet_as_uint8(desc)) for name, desc in self.fielddefs[typename][1]]
                getsize, size = generate_getsize_cdr(entries, self)
                nothing: Any = None
                make: Any = constructor_from_wire(typename, self)
                self.cache[typename] = Msgdef(
                    typename,
                    entries,
                    make,
                    size,
                    getsize,
                    generate_serialize_cdr(entries, self, "le"),
                    generate_serialize_cdr(entries, self, "be"),
                    generate_deserialize_cdr(entries, self, "le"),
                    generate_deserialize_cdr(entries, self, "be"),
                    *[nothing] * 8,
                )
            return self.cache[typename]

    def packages(self) -> set[str]:
        return {name.split("/", 1)[0] for name in self.fielddefs}


def unknown_type(name: str, store: RosTypestore) -> str:
    package = name.split("/", 1)[0]
    known = sorted(other for other in store.fielddefs if other.startswith(package + "/") and not other.endswith("_Event"))
    if known:
        return f"type {name!r} is unknown; {package} has {', '.join(n.split('/', 1)[1] for n in known[:12])}"
    return f"type {name!r} is unknown: add {package}/msg/*.msg to ros/msgs, or run under real ROS 2"


def selected_distribution() -> str:
    """BEVSTACK_ROS_DISTRO, else ROS_DISTRO if it is known here, else jazzy.

    :raises UnknownTypeError: BEVSTACK_ROS_DISTRO names a distribution that is not known here.
    """
    chosen = os.environ.get("BEVSTACK_ROS_DISTRO", "").lower()
    if chosen:
        if chosen not in DISTRIBUTIONS:
            raise UnknownTypeError(f"BEVSTACK_ROS_DISTRO={chosen!r} is not one of {', '.join(sorted(DISTRIBUTIONS))}")
        return chosen
    peer = os.environ.get("ROS_DISTRO", "").lower()
    return peer if peer in DISTRIBUTIONS else "jazzy"


@cache
def _store(distribution: str) -> RosTypestore:
    return RosTypestore(distribution)


def typestore(distribution: str | None = None) -> RosTypestore:
    """The store of a distribution ("humble" differs in the size of rmw_dds_common/msg/Gid), by default the selected one.

    It can be given to rosbags readers and writers.

    :raises UnknownTypeError: no such distribution.
    """
    name = distribution or selected_distribution()
    if name not in DISTRIBUTIONS:
        raise UnknownTypeError(f"distribution {name!r} is not one of {', '.join(sorted(DISTRIBUTIONS))}")
    return _store(name)
