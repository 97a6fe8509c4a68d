"""Images in, learned streams out: ``sensor_msgs/CompressedImage`` with format ``rgb8; vtc1 compressed``.

Subscribes per camera ``<image topic>[/compressed]`` and, where regions of interest are asked for, its boxes; publishes
``<image topic>/vtc1`` (parameter), ``~/status`` after every frame and ``/diagnostics``. One worker serves all cameras in turn;
a frame that a newer one overtakes is dropped and counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bevstack.engine import HotSwap, SwapEvent
from bevstack.errors import BevstackError
from bevstack.frames.decode import decode
from bevstack.ros import convert
from bevstack.ros.convert2d import boxes2d_from_detections
from bevstack.ros.interfaces import CompressedImage, Detection2DArray, Image, Message
from bevstack.ros.runtime import Parameter, QoSProfile, SetParametersResult

from .bev_node import NUSCENES_CAMERAS
from .main import run_node
from .parameters import ParameterValueError, Spec
from .regions import Regions, region_weights
from .release import RELEASE_AFTER
from .stream_node import STREAM_PARAMETERS, Done, FrameLostError, StreamNode

if TYPE_CHECKING:
    from bevstack.codec.codec import Decoded, Encoded

PARAMETERS: tuple[Spec, ...] = (
    Spec("cameras", NUSCENES_CAMERAS, "names of the cameras"),
    Spec("image_topic_template", "{camera}/image_raw", "base image topic of a camera"),
    Spec("image_transport", "compressed", "form in which images arrive", choices=("raw", "compressed")),
    Spec("output_topic_template", "{camera}/image_raw/vtc1", "topic of a camera's stream"),
    Spec("model", "codec-nano", "name of bundled codec weights, or path of a weights file"),
    Spec("model.rung", "", "size that runs, of the codecs that are here; empty: the model itself", live=True),
    Spec("model.resident", False, "rungs stay loaded once they have been: faster swaps, more memory"),
    Spec("quality", 40.0, "quality of every frame, 0 to 100", live=True, low=0.0, high=100.0),
    Spec("max_bytes", 0, "instead: at most this many bytes per frame; 0: as quality says", live=True, low=0, high=1 << 26),
    Spec("tile", 0, "side of independent tiles, a multiple of 64 pixels; 0: one tile", live=True, low=0, high=16320),
    Spec("max_rate", 0.0, "frames per second of each camera; 0: all that come", live=True, low=0.0, high=1000.0),
    Spec("model.rate", 1.0, "share of the frames of each camera that are coded, evenly spread", live=True, low=0.01, high=1.0),
    RELEASE_AFTER,
    Spec(
        "regions_topic_template",
        "",
        "boxes of a camera (vision_msgs/Detection2DArray) that are worth more bits, as detect_node/{camera}/detections_2d; "
        "empty: none",
    ),
    Spec("regions.inside", 8.0, "how much more an error counts within a box", live=True, low=0.01, high=100.0),
    Spec("regions.outside", 1.0, "how much an error counts elsewhere, where there are boxes", live=True, low=0.01, high=100.0),
    Spec("regions.margin", 0.1, "how far a box reaches beyond its sides, as a share of its size", live=True, low=0.0, high=2.0),
    Spec("regions.min_score", 0.3, "boxes below this score are not regarded", live=True, low=0.0, high=1.0),
    Spec(
        "regions.max_age",
        0.5,
        "seconds between boxes and image above which boxes are not regarded",
        live=True,
        low=0.0,
        high=60.0,
    ),
    Spec("measure", False, "decode every stream again and tell its PSNR; doubles the work", live=True),
    *STREAM_PARAMETERS,
)


class Codec(Protocol):
    """What the node needs of ``codec.ImageCodec``."""

    def encode(
        self,
        rgb: NDArray[np.uint8],
        *,
        quality: float | None = None,
        max_bytes: int | None = None,
        roi: NDArray[Any] | None = None,
        tile: int = 0,
        capture: Any = None,
    ) -> Encoded: ...

    def decode(self, data: bytes) -> Decoded: ...

    def close(self) -> None: ...


class EncoderNode(StreamNode):
    """Learned streams of the cameras of a rig. Parameters: ``PARAMETERS``.

    Args:
        codec: use this codec instead of loading one (tests).
        kwargs: as for ``Node``.
    """

    def __init__(self, node_name: str = "encoder_node", *, codec: Codec | None = None, **kwargs: Any) -> None:
        self._given = codec
        self._swap: HotSwap[Codec] | None = None
        self._outputs: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._regions = Regions()
        self._credit: dict[str, float] = {}  # per camera: share of a frame that is due
        super().__init__(node_name, PARAMETERS, "encode", **kwargs)
        self.add_on_set_parameters_callback(self._check_rung)

    # --- model --------------------------------------------------------------------------------------------------------------

    @property
    def swap(self) -> HotSwap[Codec] | None:
        """The ladder of rungs; None before it is configured."""
        return self._swap

    def open(self) -> None:
        """Load the codec, create a publisher per camera."""
        p = self._p
        for name in ("image_topic_template", "output_topic_template", "regions_topic_template"):
            if p[name] and "{camera}" not in p[name] and len(self.cameras) > 1:
                raise ParameterValueError(f"{name} {p[name]!r} has no {{camera}}: all cameras would be the same")
        if p["tile"] % 64:
            raise ParameterValueError(f"parameter tile is {p['tile']}: it must be a multiple of 64")
        own, sources = self._sources()
        self._swap = HotSwap(
            lambda rung: self._load(sources[rung]),
            list(sources),
            p["model.rung"] or own,
            warm_up=_warm_up,
            close=_leave if self._given is not None else None,
            resident=list(sources) if p["model.resident"] else (),
            on_event=self._on_swap,
        )
        self._outputs = {
            name: self.out(CompressedImage, p["output_topic_template"].format(camera=name)) for name in self.cameras
        }

    def _sources(self) -> tuple[str, dict[str, str]]:
        """(the model's own rung, what to load for each rung)."""
        model = str(self._p["model"])
        if self._given is not None:
            return model, {model: model}
        if Path(model).suffix == ".safetensors":
            return Path(model).stem, {Path(model).stem: model}
        from bevstack.codec.picture import known_models

        known = {name: name for name in known_models()}
        return model, known if model in known else {model: model, **known}

    def _load(self, source: str) -> Codec:
        if self._given is not None:
            return self._given
        from bevstack.codec.codec import ImageCodec

        return ImageCodec(source, "torch" if self._p["engine"] == "torch" else "onnx", self._p["threads"])

    def extra_inputs(self) -> list[Any]:
        """Boxes of each camera, where regions of interest are asked for."""
        template, made = self._p["regions_topic_template"], []
        if template:
            for name in self.cameras:
                take = partial(self._on_boxes, name)
                made.append(
                    self.create_subscription(Detection2DArray, template.format(camera=name), take, QoSProfile(depth=10))
                )
        return made

    def _on_boxes(self, camera: str, message: Message) -> None:
        self._regions.take(camera, convert.stamp_to_ns(message.header.stamp), boxes2d_from_detections(message))

    def release(self) -> None:
        """Free the codecs of all rungs."""
        if self._swap is not None:
            self._swap.close()
        self._swap = None

    def _check_rung(self, changes: Sequence[Parameter]) -> Any:  # rcl_interfaces/SetParametersResult
        for change in changes:
            if change.name == "model.rung" and change.value and self._swap is not None and change.value not in self._swap.rungs:
                known = ", ".join(self._swap.rungs)
                return SetParametersResult(successful=False, reason=f"there is no rung {change.value!r}: use one of {known}")
            if change.name == "tile" and isinstance(change.value, int) and change.value % 64:
                return SetParametersResult(successful=False, reason=f"tile is {change.value}: it must be a multiple of 64")
        return SetParametersResult(successful=True, reason="")

    def changed(self, values: Mapping[str, Any]) -> None:
        """A rung is prepared in the background; the other live parameters are read at the next frame."""
        if values.get("model.rung") and self._swap is not None:
            self._swap.request(values["model.rung"])

    def _on_swap(self, event: SwapEvent) -> None:
        if event.kind == "active":
            self.get_logger().info(f"rung {event.text}")
            return
        self.get_logger().warning(event.text)
        if self._swap is not None and self._p["model.rung"] not in ("", self._swap.rung):
            self.set_parameters([Parameter("model.rung", value=self._swap.rung)])  # the parameter says what runs

    def facts(self) -> Mapping[str, str]:
        """Model, engine, rung."""
        swap = self._swap
        facts = {"model": str(self._p["model"]), "engine": str(self._p["engine"])}
        if swap is not None:
            state = swap.state()
            facts |= {"rung": state.rung, "rungs": ", ".join(swap.rungs)}
            facts |= {"rung in preparation": state.pending or "", "last swap failure": state.failure}
        return facts

    # --- frames -------------------------------------------------------------------------------------------------------------

    @property
    def release_after(self) -> float:
        """See ``StreamNode``."""
        return float(self._p["release_after"])

    def inputs(self, camera: str) -> tuple[Any, str]:
        """The camera's image topic."""
        base = self._p["image_topic_template"].format(camera=camera)
        return (CompressedImage, f"{base}/compressed") if self._p["image_transport"] == "compressed" else (Image, base)

    def wanted(self, camera: str, message: Message) -> bool:
        """Not more frames than ``max_rate``, evenly spread by their own stamps; of these the share ``model.rate``."""
        return self._due_now(camera, convert.stamp_to_ns(message.header.stamp) / 1e9) and self._in_share(camera)

    def _in_share(self, camera: str) -> bool:
        credit = self._credit.get(camera, 1.0 - self._p["model.rate"]) + self._p["model.rate"]
        taken = credit >= 1.0 - 1e-9
        self._credit[camera] = credit - 1.0 if taken else credit
        return taken

    def _due_now(self, camera: str, now: float) -> bool:
        rate = self._p["max_rate"]
        if not rate:
            return True
        period = 1.0 / rate
        due = self._due.get(camera, now)
        if now < due - 0.1 * period and due - now < 10.0 * period:  # a stamp far back: the source has begun again
            return False
        self._due[camera] = max(due, now - period) + period if abs(now - due) < 10.0 * period else now + period
        return True

    def work(self, camera: str, message: Message) -> Done:
        """Decode the image, code it."""
        from bevstack.codec.bitstream import Capture
        from bevstack.codec.metrics import psnr

        assert self._swap is not None
        started = time.perf_counter()
        stamp = convert.stamp_to_ns(message.header.stamp)
        if self._p["image_transport"] == "compressed":
            rgb = decode(convert.image_bytes(message))
        else:
            rgb = convert.rgb_from_image(message)
        stages = {"decode": (time.perf_counter() - started) * 1e3}
        codec = self._swap.current()
        roi = self._weights(camera, stamp, rgb)
        number = self._numbers.get(camera, 0)
        capture = Capture(self.cameras.index(camera) % 256, number % (1 << 32), max(0, stamp // 1000))
        try:
            made = self._encode(codec, rgb, roi, capture)
        except (BevstackError, ValueError) as error:
            earlier = self._swap.reject(str(error)) if not isinstance(error, ValueError) else None
            if earlier is None:
                raise FrameLostError(f"cannot be coded: {error}") from error
            made = self._encode(earlier, rgb, roi, capture)
            codec = earlier
        self._numbers[camera] = number + 1
        stages |= {name if name not in stages else f"codec {name}": ms for name, ms in made.timings.items()}
        quality = float("nan")
        if self._p["measure"]:
            quality = psnr(rgb, codec.decode(made.data).rgb)
        stream = convert.compressed_from_bytes(made.data, stamp, message.header.frame_id)
        stages["total"] = (time.perf_counter() - started) * 1e3
        send = partial(self._outputs[camera].publish, stream)
        return Done(self._swap.rung, made.width, made.height, len(made.data), made.rate, stages, psnr=quality, send=send)

    def _weights(self, camera: str, stamp: int, rgb: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        p = self._p
        boxes = self._regions.of(camera, stamp, p["regions.max_age"]) if p["regions_topic_template"] else None
        if boxes is None:
            return None
        inside, outside, margin = p["regions.inside"], p["regions.outside"], p["regions.margin"]
        return region_weights(boxes, (rgb.shape[0], rgb.shape[1]), inside, outside, margin, p["regions.min_score"])

    def _encode(self, codec: Codec, rgb: NDArray[np.uint8], roi: NDArray[np.float32] | None, capture: Any) -> Encoded:
        p = self._p
        target: dict[str, Any] = {"max_bytes": p["max_bytes"]} if p["max_bytes"] else {"quality": p["quality"]}
        return codec.encode(rgb, roi=roi, tile=p["tile"], capture=capture, **target)


def _leave(codec: Codec) -> None:
    """A codec that was given belongs to the giver."""


def _warm_up(codec: Codec, rung: str) -> None:
    """The first frame compiles the entropy coder and plans the networks: not while a camera waits."""
    codec.encode(np.zeros((64, 64, 3), np.uint8), quality=50.0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit code is 0 then."""
    return run_node(EncoderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
