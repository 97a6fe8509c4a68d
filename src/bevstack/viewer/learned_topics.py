"""Topics of learned streams for the page: what codec nodes tell, and decoded pictures of the camera that a browser looks at."""

from __future__ import annotations

from functools import partial
from typing import Any

from bevstack.errors import BevstackError
from bevstack.ros import convert
from bevstack.ros.interfaces import CodecStatus, CompressedImage, Image, Message
from bevstack.ros.nodes.parameters import Parameters, Spec
from bevstack.ros.nodes.topics import sensor_qos
from bevstack.ros.runtime import Node, QoSProfile

from .learned import LearnedStreams, StreamStatus
from .received import Picture

LEARNED_PARAMETERS: tuple[Spec, ...] = (
    Spec("encoder_node", "encoder_node", "name of the node that makes learned streams; empty: none"),
    Spec("decoder_node", "decoder_node", "name of the node that decodes learned streams; empty: none"),
    Spec("decoded_topic_template", "{camera}/image_decoded", "base topic of a camera's decoded images"),
    Spec(
        "decoded_transport",
        "raw",
        "form in which decoded images arrive; compressed saves bandwidth and costs a little of the PSNR that the page measures",
        choices=("raw", "compressed"),
    ),
)


class LearnedTopics:
    """Feeds ``streams``. A decoder decodes what somebody subscribes to, so only cameras that are looked at are subscribed to.

    Args:
        node: makes the subscriptions.
        parameters: ``LEARNED_PARAMETERS`` and ``cameras`` are read from them.
    """

    def __init__(self, node: Node, streams: LearnedStreams, parameters: Parameters) -> None:
        self._node, self._streams, self._p = node, streams, parameters
        self._shown: dict[str, Any] = {}  # camera -> subscription
        for name in ("encoder_node", "decoder_node"):
            if parameters[name]:
                node.create_subscription(CodecStatus, f"{parameters[name]}/status", self._on_status, QoSProfile(depth=50))

    def show(self, cameras: set[str]) -> None:
        """Subscribes to the decoded pictures of exactly these cameras (unknown names are left out)."""
        wanted = cameras & set(self._p["cameras"])
        for name in set(self._shown) - wanted:
            self._node.destroy_subscription(self._shown.pop(name))
        compressed = self._p["decoded_transport"] == "compressed"
        for name in wanted - set(self._shown):
            base = self._p["decoded_topic_template"].format(camera=name)
            kind, topic = (CompressedImage, f"{base}/compressed") if compressed else (Image, base)
            take = partial(self._on_picture, name)
            self._shown[name] = self._node.create_subscription(kind, topic, take, sensor_qos())

    def _on_status(self, message: Message) -> None:
        self._streams.set_status(status_from_message(message))

    def _on_picture(self, name: str, message: Message) -> None:
        stamp = convert.stamp_to_ns(message.header.stamp)
        try:
            raw = self._p["decoded_transport"] == "raw"
            data = convert.rgb_from_image(message) if raw else convert.image_bytes(message)
            self._streams.add_decoded(name, Picture(stamp, data))
        except BevstackError as error:
            self._node.get_logger().warning(f"{name}: {error}", throttle_duration_sec=5.0)


def status_from_message(message: Message) -> StreamStatus:
    """stack_msgs/CodecStatus as the page's ``StreamStatus``."""
    return StreamStatus(
        camera=message.camera,
        direction=message.direction,
        stamp=convert.stamp_to_ns(message.header.stamp),
        model=message.model,
        engine=message.engine,
        width=int(message.width),
        height=int(message.height),
        bytes=int(message.bytes),
        bits_per_pixel=float(message.bits_per_pixel),
        rate_point=float(message.rate_point),
        psnr=float(message.psnr),
        damaged=int(message.damaged),
        frames_in=int(message.frames_in),
        frames_out=int(message.frames_out),
        frames_dropped=int(message.frames_dropped),
        stages=tuple((name, float(ms)) for name, ms in zip(message.stages, message.stage_ms)),
        latency_ms=float(message.latency_ms),
        reason=message.reason,
    )
