"""JPEG encoding of simulated pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import SourceError


def encode_jpeg(image: NDArray[np.uint8], quality: int, name: str) -> bytes:
    """JPEG bytes of an (H, W, 3) RGB picture of the camera ``name``; ``quality`` 1..100.

    Raises:
        SourceError: the encoder refuses the picture.
    """
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SourceError(f"simulated drive: JPEG encoding of {name} ({image.shape[1]}x{image.shape[0]}) failed")
    return data.tobytes()
