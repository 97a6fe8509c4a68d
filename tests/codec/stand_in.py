"""A stand-in for ``ImageCodec``: same interface, coarse pixels in a PNG behind the stream's magic. No weights, no networks."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bevstack.codec.bitstream import Header
from bevstack.codec.codec import Decoded, Encoded
from bevstack.errors import BitstreamError, EngineError

MODEL_ID = b"stand-in"


class StandIn:
    """``quality`` 0..100 keeps that many grey levels. ``failure`` makes the next calls raise."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(name="stand-in")
        self.calls: list[dict[str, Any]] = []
        self.regions: list[NDArray[Any] | None] = []
        self.failure: str = ""
        self.closed = False

    def encode(
        self,
        rgb: NDArray[np.uint8],
        *,
        quality: float | None = None,
        max_bytes: int | None = None,
        psnr: float | None = None,
        roi: NDArray[Any] | None = None,
        tile: int = 0,
        capture: Any = None,
    ) -> Encoded:
        if self.failure:
            raise EngineError(self.failure)
        self.calls.append({"quality": quality, "max_bytes": max_bytes, "tile": tile, "capture": capture})
        self.regions.append(roi)
        step = 128 - int(1.26 * (50.0 if quality is None else quality))
        coarse = (rgb // step * step + step // 2).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).save(buffer, format="PNG")
        data = b"VTC1" + buffer.getvalue()
        if max_bytes is not None and len(data) > max_bytes:
            raise ValueError(f"{len(data)} bytes are more than {max_bytes}")
        height, width = rgb.shape[:2]
        return Encoded(data, width, height, quality or 0.0, 8.0 * len(data) - 64, 1, {"analysis": 1.0, "entropy coding": 0.5})

    def decode(self, data: bytes | memoryview) -> Decoded:
        try:
            rgb = np.array(Image.open(io.BytesIO(bytes(data[4:]))).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise BitstreamError(f"coded frame: {error}") from None
        header = Header(rgb.shape[1], rgb.shape[0], MODEL_ID)
        return Decoded(rgb, header, (), True, {"synthesis": 2.0})

    def close(self) -> None:
        self.closed = True
