"""The other process of the two-process tests: an echo, a service, a writer of nonsense. Ends when its input is closed."""

from __future__ import annotations

import sys

from bevstack.ros.runtime.dds.descriptor import compile_type, topic_descriptor
from bevstack.ros.runtime.dds.library import TopicDescriptor
from bevstack.ros.runtime.messages import message_class
from bevstack.ros.runtime.qos import QoSProfile
from bevstack.ros.runtime.serialization import deserialize_message, serialize_message
from bevstack.ros.runtime.wire import MessageMeta, RequestId, open_wire

NODE = ("peer", "/far")
IMAGE, STRING, TRIGGER = "sensor_msgs/msg/Image", "std_msgs/msg/String", "std_srvs/srv/Trigger"


def disguised_descriptor() -> TopicDescriptor:
    """The description of a text message under the name of an image: what it sends is no image."""
    string = topic_descriptor(STRING)
    return TopicDescriptor(
        size=string.size,
        align=string.align,
        type_name=b"sensor_msgs::msg::dds_::Image_",
        op_count=len(compile_type(STRING).ops),
        ops=string.ops,
    )


def main() -> None:
    wire = open_wire()
    wire.add_node(*NODE)
    deep = QoSProfile(depth=100)
    echo = wire.create_writer("/echo", IMAGE, deep, node=NODE)
    wire.create_reader("/ping", IMAGE, deep, lambda raw, meta: echo.write(raw), node=NODE)

    import bevstack.ros.runtime.dds.endpoints as endpoints

    real, disguise = endpoints.topic_descriptor, disguised_descriptor()
    endpoints.topic_descriptor = lambda name, service=False: disguise if name == IMAGE else real(name, service)  # type: ignore[assignment]
    nonsense = wire.create_writer("/nonsense", IMAGE, deep, node=NODE)
    endpoints.topic_descriptor = real
    honest = wire.create_writer("/nonsense", IMAGE, deep, node=NODE)

    def answer(raw: memoryview, request_id: RequestId, meta: MessageMeta) -> None:
        deserialize_message(raw, f"{TRIGGER}_Request")
        while not (nonsense.remote_readers() and honest.remote_readers()):
            pass
        for size in (0, 1, 100, 20_000):
            nonsense.write(serialize_message(message_class(STRING)(data="\x7f" * size)))
        honest.write(serialize_message(message_class(IMAGE)(encoding="honest")))
        server.respond(request_id, serialize_message(message_class(TRIGGER).Response(success=True, message="sent")))

    server = wire.create_service_server("/send_nonsense", TRIGGER, deep, answer, node=NODE)
    print("ready" if wire.available else wire.reason, flush=True)
    sys.stdin.read()
    wire.close()


if __name__ == "__main__":
    main()
