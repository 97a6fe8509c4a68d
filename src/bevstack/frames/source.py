"""Where frames come from: one interface, and ``open_source`` that finds the right one for what a user typed."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

from bevstack.errors import SourceError
from bevstack.geometry import Camera

from .calibration import RigEntry, load_rig, parse_entry
from .sync import AnchorSync, ApproximateSync, Synchroniser
from .types import Frame, FrameSet

logger = logging.getLogger("bevstack.frames")

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mjpg", ".mjpeg", ".h264", ".ts")
ACCEPTED = (
    "sim:seed=1,duration=30; ros: (live topics); a rosbag2 folder, .mcap or .db3 file; a video file; /dev/videoN or v4l2:N; "
    "rtsp:// or http://; a nuScenes folder; a sample.json; a rig.yaml whose cameras name videos, devices or streams; "
    "pattern:rate=10"
)


@runtime_checkable
class Source(Protocol):
    """Camera frames from anywhere. A context manager; iterate it for instants, or take ``frames`` unsynchronised.

    Attributes:
        name: what it reads, for messages.
        cameras: calibrations in rig order.
        rate: instants per second; None when unknown.
    """

    name: str

    @property
    def cameras(self) -> Mapping[str, Camera]: ...

    @property
    def rate(self) -> float | None: ...

    def __iter__(self) -> Iterator[FrameSet]: ...

    def frames(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Source: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@dataclass(frozen=True)
class SyncOptions:
    """How a source's frames become instants.

    Attributes:
        method: ``approximate`` or ``anchor`` (see ``sync``).
        tolerance: largest difference of stamps within an instant, seconds.
        anchor: reference camera of ``anchor``; None: the first.
        missing_after: seconds after which a silent camera is left out; None: every instant holds all cameras.
        min_cameras: fewest cameras of an instant when some are silent.
    """

    method: Literal["approximate", "anchor"] = "approximate"
    tolerance: float = 0.05
    anchor: str | None = None
    missing_after: float | None = None
    min_cameras: int = 1

    def build(self, cameras: Mapping[str, Camera]) -> Synchroniser:
        """A synchroniser for these cameras.

        Raises:
            SourceError: unknown method or anchor.
        """
        tolerance = round(self.tolerance * 1e9)
        silent = None if self.missing_after is None else round(self.missing_after * 1e9)
        if self.method == "approximate":
            return ApproximateSync(cameras, tolerance, missing_after_ns=silent, min_cameras=self.min_cameras)
        if self.method == "anchor":
            return AnchorSync(cameras, self.anchor, tolerance, missing_after_ns=silent, min_cameras=self.min_cameras)
        raise SourceError(f"synchroniser {self.method!r} is unknown: use approximate or anchor")


class FrameSource(ABC):
    """Base of sources that give single frames; iterating them synchronises.

    Args:
        sync: how frames become instants.
        name: what is read, for messages.
        cameras: calibrations, in rig order; a subclass may fill ``_cameras`` later.
        rate: instants per second; None when unknown.

    Attributes:
        problems: one line for each thing that is wrong with the source but can be lived with; also logged once.
        sync: the synchroniser of the running or last iteration, for its counters; None before the first.
    """

    name: str = ""

    def __init__(
        self,
        sync: SyncOptions | None = None,
        *,
        name: str = "",
        cameras: Mapping[str, Camera] | None = None,
        rate: float | None = None,
    ) -> None:
        self.name = name or self.name
        self._rate = rate
        self.sync_options = sync if sync is not None else SyncOptions()
        self.sync: Synchroniser | None = None
        self.problems: list[str] = []
        self._cameras: dict[str, Camera] = dict(cameras or {})

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """Calibrations by name, in rig order."""
        return self._cameras

    @property
    def rate(self) -> float | None:
        """Instants per second; None when unknown."""
        return self._rate

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Single frames in stamp order as they come, unsynchronised."""

    def __iter__(self) -> Iterator[FrameSet]:
        sync = self.sync = self.sync_options.build(self.cameras)
        for frame in self.frames():
            yield from sync.push(frame)
        yield from sync.flush()
        if not sync.instants:
            counts = ", ".join(f"{name} {counter.received}" for name, counter in sync.counters.items())
            self.note(f"{self.name}: no complete instant (frames: {counts}; {sync.skip_reason or 'cameras never met'})")

    def note(self, problem: str) -> None:
        """Remember and log a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)
            logger.warning("%s", problem)

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what the source holds. May be called twice."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_source(
    spec: str | Path, *, cameras: Mapping[str, Any] | None = None, rig: Path | str | None = None, **options: Any
) -> Source:
    """Open what ``spec`` names.

    Args:
        spec: see ``docs/sources.md``: ``sim:seed=1,duration=30``, a bag, a video file, ``/dev/video0`` or ``v4l2:0``, a
            nuScenes folder, a ``sample.json`` or its folder, a ``rig.yaml`` whose cameras name videos or devices; ``ros:`` for
            live topics, and whatever else installed packages offer as entry points of the group ``bevstack.sources``.
        cameras: which cameras and what is known of them: name -> topic, ``Camera``, or a table as in a rig file; None: all.
        rig: rig file; its entries serve as ``cameras`` does, which goes before it.
        **options: passed to the source (``BagSource``, ``VideoSource``, ``NuScenesSource``, ``SimulatedDrive``, ...).
            ``sync``, ``tolerance``, ``anchor``, ``missing_after``, ``min_cameras`` set ``SyncOptions``.

    Raises:
        SourceError: nothing is there, or it is not known what it is; the line lists what is accepted.
        CalibrationError: a rig file that is wrong, or cameras that cannot be calibrated.
    """
    text = str(spec)
    entries: dict[str, RigEntry] = {} if rig is None else load_rig(rig)
    if cameras is not None:
        named = {str(name): parse_entry(str(name), values) for name, values in cameras.items()}
        entries = {name: _merged(entries.get(name), entry) for name, entry in named.items()}
    if text == "sim" or text.startswith("sim:"):
        return _open_simulation(text, entries, options)
    if text == "pattern" or text.startswith("pattern:"):
        from .pattern import PatternSource

        pattern: Source = _call_plain(PatternSource, text, {**_pairs(text, PatternSource), **options})
        return pattern
    options = _with_sync(options)
    chosen = entries or None
    if (plugin := _plugin(text)) is not None:
        found: Source = _call_plain(plugin, text, {**_pairs(text, plugin), "cameras": chosen, **options})
        return found
    if text.startswith(("v4l2:", "/dev/video")) or text.isdigit():
        from .device import DeviceSource

        return _call(DeviceSource, {_first_name(entries): text}, chosen, options)
    if "://" in text and not text.startswith("file://"):
        from .device import DeviceSource, open_stream

        return _call(DeviceSource, {_first_name(entries): text}, chosen, {"opener": open_stream, **options})
    path = Path(text.removeprefix("nuscenes:").removeprefix("file://"))
    if not path.exists():
        raise SourceError(f"source {text!r} does not exist; accepted: {ACCEPTED}")
    return _open_path(path, entries, chosen, options)


def _plugin(text: str) -> Any:
    """The class that an installed package offers for ``scheme:...`` (group ``bevstack.sources``); None if there is none.

    This is how sources of higher floors, such as live ROS topics, come in without being imported here.

    Raises:
        SourceError: it is there but cannot be loaded.
    """
    from importlib.metadata import entry_points

    scheme, colon, rest = text.partition(":")
    if not (scheme.isidentifier() and (colon or not Path(text).exists())) or rest.startswith("//"):
        return None
    for point in entry_points(group="bevstack.sources", name=scheme):
        try:
            return point.load()
        except ImportError as error:
            raise SourceError(f"source {text!r} needs what is not installed ({error}): see docs/sources.md") from error
    return None


def _open_path(path: Path, entries: dict[str, RigEntry], chosen: dict[str, RigEntry] | None, options: dict[str, Any]) -> Source:
    from .bag_reader import is_bag

    if path.is_dir() and (any(path.glob("v1.0-*")) or path.name.startswith("v1.0-")):
        from .nuscenes import NuScenesSource

        return _call(NuScenesSource, path, chosen, options)
    if path.name == "sample.json" or (path.is_dir() and (path / "sample.json").exists()):
        from .sample_json import SampleJsonSource

        return _call(SampleJsonSource, path, chosen, options)
    if is_bag(path):
        from .bag import BagSource

        return _call(BagSource, path, chosen, options)
    if path.is_dir():
        videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        if videos:
            from .video import VideoSource

            return _call(VideoSource, {video.stem: str(video) for video in videos}, chosen, options)
        raise SourceError(f"folder {path} holds no bag, no nuScenes tables, no sample.json and no videos; accepted: {ACCEPTED}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        from .video import VideoSource

        return _call(VideoSource, {_first_name(entries): str(path)}, chosen, options)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_rig(path, {**load_rig(path), **entries}, options)
    if path.suffix == ".bag":
        raise SourceError(f"{path} is a ROS 1 bag: convert it with `rosbags-convert --src {path.name} --dst {path.stem}`")
    raise SourceError(f"{path} is not a kind of source that is known; accepted: {ACCEPTED}")


def _open_rig(path: Path, entries: dict[str, RigEntry], options: dict[str, Any]) -> Source:
    """Cameras whose ``topic``/``source`` names a video file or a device each."""
    inputs = {name: entry.topic for name, entry in entries.items() if entry.topic is not None}
    missing = sorted(set(entries) - set(inputs))
    if missing:
        raise SourceError(f"rig file {path}: camera {missing[0]} names no `source:` (a video file or /dev/videoN) to read from")
    live = {name for name, where in inputs.items() if where.startswith(("/dev/", "v4l2:")) or "://" in where}
    if live and len(live) != len(inputs):
        raise SourceError(
            f"rig file {path}: live cameras and video files cannot be mixed in one rig: {', '.join(sorted(live))}"
        )
    if live:
        from .device import DeviceSource, open_live

        return _call(DeviceSource, inputs, entries, {"opener": open_live, **options})
    from .video import VideoSource

    return _call(VideoSource, {name: str(path.parent / where) for name, where in inputs.items()}, entries, options)


def _open_simulation(text: str, entries: dict[str, RigEntry], options: dict[str, Any]) -> Source:
    from .sim import SimulatedDrive

    values: dict[str, Any] = {"seed": 0, **_pairs(text, SimulatedDrive), **options}
    if entries:
        values["cameras"] = {name: camera for name, entry in entries.items() if (camera := entry.camera()) is not None}
        if len(values["cameras"]) != len(entries):
            missing = sorted(set(entries) - set(values["cameras"]))
            raise SourceError(f"camera {missing[0]} of the simulated rig needs size, K or fov, and a mounting")
    drive: Source = _call_plain(SimulatedDrive, text, values)
    return drive


_WANTED: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}


def _pairs(text: str, kind: type) -> dict[str, Any]:
    """``sim:a=1,b=x`` to {"a": 1, "b": "x"}. Numbers and switches are checked against the annotations of ``kind.__init__``."""
    import yaml

    annotations = inspect.get_annotations(kind.__init__)  # type: ignore[misc]
    values: dict[str, Any] = {}
    for part in filter(None, text.partition(":")[2].split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise SourceError(f"source {text!r}: {part!r} is not key=value; for example sim:seed=1,duration=30")
        key = key.strip()
        try:
            values[key] = value.strip() if str(annotations.get(key)) == "str" else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SourceError(f"source {text!r}: the value of {key}, {value!r}, cannot be read") from error
        types, wanted = _WANTED.get(str(annotations.get(key)), ((object,), ""))
        if not isinstance(values[key], types) or (isinstance(values[key], bool) and bool not in types and object not in types):
            raise SourceError(f"source {text!r}: {key} is {value!r}; it takes {wanted}")
    return values


def _with_sync(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the synchroniser's options into one ``SyncOptions``."""
    keys = {"tolerance", "anchor", "missing_after", "min_cameras"} & set(options)
    if isinstance(options.get("sync"), SyncOptions) or not (keys or "sync" in options):
        return options
    rest = {key: value for key, value in options.items() if key not in keys and key != "sync"}
    given = {key: options[key] for key in keys}
    if "sync" in options:
        given["method"] = options["sync"]
    return {**rest, "sync": SyncOptions(**given)}


def _call(kind: Any, where: Any, cameras: dict[str, RigEntry] | None, options: dict[str, Any]) -> Source:
    source: Source = _call_plain(kind, where, {"cameras": cameras, **options}, where)
    return source


def _call_plain(kind: Any, where: Any, options: Mapping[str, Any], *arguments: Any) -> Any:
    accepted = inspect.signature(kind).parameters
    for key in options:
        if key not in accepted:
            known = ", ".join(name for name in accepted if name not in ("self", "path", "inputs"))
            raise SourceError(f"{where}: option {key!r} is unknown: use {known}")
    return kind(*arguments, **options)


def _first_name(entries: Mapping[str, RigEntry]) -> str:
    return next(iter(entries), "camera")


def _merged(base: RigEntry | None, over: RigEntry) -> RigEntry:
    """``over``, filled up from ``base``."""
    if base is None:
        return over
    from dataclasses import fields, replace

    known = {f.name: getattr(over, f.name) for f in fields(over) if getattr(over, f.name) is not None}
    if not over.distortion.size:
        known.pop("distortion")
        if over.model == "pinhole":
            known.pop("model")
    return replace(base, **known)
