"""Golden streams of the shipped codecs: what they must decode to. Written anew when weights change:

python tests/codec/golden_shipped.py codec-nano
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = ("codec-nano", "codec-small", "codec-base")


def file_of(codec: str) -> Path:
    """Where the golden streams of one codec are."""
    return Path(__file__).with_name(f"golden_{codec}.json")


def pictures() -> dict[str, np.ndarray]:
    """Small synthetic pictures, from integer arithmetic alone."""
    y, x = np.mgrid[0:96, 0:144]
    ramp = np.stack([(x * 3 + y) % 256, (x + y * 2) % 256, (x * 2 + y * 3) % 256], -1)
    blocks = ((x // 24 + y // 16) % 2 * 120 + 60)[..., None] + np.array([0, 20, -30])
    hashed = ((x * 7919 + y * 104729 + x * y * 31) % 61)[..., None] - 30
    return {
        "ramps": ramp.astype(np.uint8),
        "blocks": np.clip(blocks, 0, 255).astype(np.uint8),
        "texture": np.clip(blocks + hashed, 0, 255).astype(np.uint8)[:81, :130],
    }


def regions(picture: np.ndarray) -> np.ndarray:
    """Weights that favour one corner."""
    roi = np.ones(picture.shape[:2])
    roi[:64, :64] = 6.0
    return roi


def cases() -> dict[str, dict[str, Any]]:
    """Arguments of the encoder by name of the case."""
    made: dict[str, dict[str, Any]] = {}
    for name, picture in pictures().items():
        made[f"{name} low"] = {"rgb": picture, "quality": 12.0}
        made[f"{name} high"] = {"rgb": picture, "quality": 80.0, "tile": 64}
    made["texture regions"] = {"rgb": pictures()["texture"], "quality": 40.0, "roi": regions(pictures()["texture"])}
    return made


def symbols_sha256(parsed: Any) -> str:
    return hashlib.sha256(parsed.z.tobytes() + parsed.symbols.tobytes()).hexdigest()


def block_means(rgb: np.ndarray) -> list[float]:
    """Means of 16 x 16 pixels, whole blocks only."""
    h, w = rgb.shape[0] // 16 * 16, rgb.shape[1] // 16 * 16
    means = rgb[:h, :w].reshape(h // 16, 16, w // 16, 16, 3).mean((1, 3), dtype=np.float64)
    return [round(float(v), 3) for v in means.reshape(-1)]


def platform() -> str:
    """Where floating point, and with it pixels and encoders, give the same to the last bit."""
    import torch

    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"


def write(name: str) -> None:
    from bevstack.codec.codec import ImageCodec

    codec = ImageCodec(name, "torch", 1)
    found: dict[str, Any] = {"weights": codec.info.sha256, "platform": platform(), "cases": {}}
    for case, arguments in cases().items():
        data = codec.encode(**arguments).data
        rgb = codec.decode(data).rgb
        found["cases"][case] = {
            "stream": data.hex(),
            "symbols": symbols_sha256(codec.parse(data)),
            "pixels": hashlib.sha256(rgb.tobytes()).hexdigest(),
            "means": block_means(rgb),
        }
    file_of(name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        write(chosen)
