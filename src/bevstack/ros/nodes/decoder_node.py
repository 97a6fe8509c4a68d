"""Learned streams in, pictures out, for rviz, the page, and nodes that know only the usual image topics.

Subscribes per camera ``<image topic>/vtc1`` (parameter); publishes ``<output topic>`` (Image), ``<output topic>/compressed``
(JPEG), ``~/status`` and ``/diagnostics``. A frame that nobody listens to is not decoded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bevstack.ros import convert
from bevstack.ros.interfaces import CompressedImage, Image, Message

from .bev_node import NUSCENES_CAMERAS
from .main import run_node
from .parameters import ParameterValueError, Spec
from .stream_node import STREAM_PARAMETERS, Done, StreamNode

if TYPE_CHECKING:
    from bevstack.codec.codec import Decoded

PARAMETERS: tuple[Spec, ...] = (
    Spec("cameras", NUSCENES_CAMERAS, "names of the cameras"),
    Spec("input_topic_template", "{camera}/image_raw/vtc1", "topic of a camera's stream"),
    Spec("output_topic_template", "{camera}/image_decoded", "base topic of a camera's decoded images"),
    Spec("image_transport", "both", "form in which images are published", choices=("raw", "compressed", "both")),
    Spec("jpeg_quality", 92, "quality of compressed images", live=True, low=1, high=100),
    Spec("model", "", "codec weights file; empty: the bundled codec that each stream names"),
    Spec("max_megapixels", 9.0, "streams of larger pictures are refused unread (4K has 8.3)", low=0.01, high=33.0),
    Spec("lazy", True, "decode only what somebody subscribes to", live=True),
    *STREAM_PARAMETERS,
)


class Decoder(Protocol):
    """What the node needs of ``codec.picture.Decoders``."""

    def decode(self, data: bytes | memoryview) -> Decoded: ...

    def close(self) -> None: ...


class DecoderNode(StreamNode):
    """Pictures of learned streams. Parameters: ``PARAMETERS``.

    Args:
        decoder: use this instead of loading codecs (tests).
        kwargs: as for ``Node``.
    """

    def __init__(self, node_name: str = "decoder_node", *, decoder: Decoder | None = None, **kwargs: Any) -> None:
        self._given = decoder
        self._decoder: Decoder | None = None
        self._raw: dict[str, Any] = {}
        self._compressed: dict[str, Any] = {}
        super().__init__(node_name, PARAMETERS, "decode", **kwargs)

    def open(self) -> None:
        """Create the publishers; codecs are loaded when a stream names them, a given model now."""
        p = self._p
        for name in ("input_topic_template", "output_topic_template"):
            if "{camera}" not in p[name] and len(self.cameras) > 1:
                raise ParameterValueError(f"{name} {p[name]!r} has no {{camera}}: all cameras would be the same")
        self._decoder = self._given or self._load()
        base = {name: p["output_topic_template"].format(camera=name) for name in self.cameras}
        if p["image_transport"] != "compressed":
            self._raw = {name: self.out(Image, topic) for name, topic in base.items()}
        if p["image_transport"] != "raw":
            self._compressed = {name: self.out(CompressedImage, f"{topic}/compressed") for name, topic in base.items()}

    def _load(self) -> Decoder:
        from bevstack.codec.picture import Decoders

        model = self._p["model"]
        if model:
            from bevstack.codec.weights import find_weights

            find_weights(model)  # a name that is not there is told now, not at the first frame
        engine: Literal["torch", "onnx"] = "torch" if self._p["engine"] == "torch" else "onnx"
        return Decoders(model, engine, self._p["threads"], round(1e6 * self._p["max_megapixels"]))

    def release(self) -> None:
        """Free the codecs."""
        if self._decoder is not None and self._given is None:
            self._decoder.close()
        self._decoder = None
        self._raw, self._compressed = {}, {}

    def facts(self) -> Mapping[str, str]:
        """Model and engine."""
        return {"model": self._p["model"] or "as each stream says", "engine": str(self._p["engine"])}

    def inputs(self, camera: str) -> tuple[Any, str]:
        """The camera's stream."""
        return CompressedImage, self._p["input_topic_template"].format(camera=camera)

    def wanted(self, camera: str, message: Message) -> bool:
        """Somebody listens, or ``lazy`` is off."""
        if not self._p["lazy"]:
            return True
        return any(table[camera].get_subscription_count() for table in (self._raw, self._compressed) if camera in table)

    def work(self, camera: str, message: Message) -> Done:
        """Decode the stream, publish the picture in the forms that are wanted."""
        from bevstack.codec.gains import RATE_UNIT

        assert self._decoder is not None
        started = time.perf_counter()
        data = bytes(convert.image_bytes(message))
        shown = self._decoder.decode(data)
        stamp, frame_id = convert.stamp_to_ns(message.header.stamp), message.header.frame_id
        began = time.perf_counter()
        for table in (self._raw, self._compressed):
            out = table.get(camera)
            if out is None or (self._p["lazy"] and not out.get_subscription_count()):
                continue
            if table is self._raw:
                out.publish(convert.image_from_rgb(shown.rgb, stamp, frame_id))
            else:
                out.publish(convert.compressed_from_rgb(shown.rgb, stamp, frame_id, self._p["jpeg_quality"]))
        now = time.perf_counter()
        stages = {**shown.timings, "publish": (now - began) * 1e3, "total": (now - started) * 1e3}
        reasons = list(shown.report)
        if not shown.matched:
            reasons.append("made for other decoder weights than these")
        header = shown.header
        return Done(
            self._p["model"] or header.model_id.hex(),
            header.width,
            header.height,
            len(data),
            header.rate / RATE_UNIT,
            stages,
            damaged=len(shown.damage),
            reason="; ".join(reasons[:3]),
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit code is 0 then."""
    return run_node(DecoderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
