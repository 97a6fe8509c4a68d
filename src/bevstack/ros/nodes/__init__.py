"""The node classes: thin shells around ``frames``, ``bev`` and ``codec``. Each has a ``main`` and runs as ``python -m``."""

from bevstack.codec.picture import register

register()  # bags and topics with learned streams decode like any other
