"""Time to turn one camera's JPEG into the network's input: ways to decode and resize, undistortion, and the worker pool.

Usage: python benchmarks/decode.py [--image FILE] [--size 704x396] [--repeat 30] [--json FILE]
Without --image a picture of the simulated drive is used, rendered at 1600 x 900.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bevstack.frames.decode import DecodePool, decode, image_size, resize
from bevstack.frames.rectify import Rectifier
from bevstack.frames.types import Frame
from bevstack.geometry import Camera


def simulated_jpeg() -> bytes:
    """One 1600 x 900 picture of the simulated drive at quality 90."""
    from bevstack.frames.sim import SimulatedDrive

    with SimulatedDrive(1, duration=0.1, image_width=1600) as drive:
        frame = next(iter(drive.frames()))
    if frame.encoded is not None:
        return bytes(frame.encoded)
    good, data = cv2.imencode(".jpg", cv2.cvtColor(np.asarray(frame.image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert good
    return bytes(data.tobytes())


def median_ms(call: Callable[[], Any], repeat: int) -> float:
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def pool_rate(encoded: bytes, camera: Camera, size: tuple[int, int], workers: int, count: int) -> float:
    """Frames per second of a pool that decodes six cameras."""
    frames = [
        Frame(Camera(f"c{i}", camera.width, camera.height, camera.K, camera.T_ego_camera), 0, encoded=encoded) for i in range(6)
    ]
    with DecodePool(workers) as pool:
        pool.decode_all(frames, lambda c: size)
        start = time.perf_counter()
        for _ in range(count):
            pool.decode_all(frames, lambda c: size)
        return 6 * count / (time.perf_counter() - start)


def main() -> None:
    """Print the table; write it as JSON on demand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, help="JPEG to decode")
    parser.add_argument("--size", default="704x396", help="target size, WxH")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    encoded = options.image.read_bytes() if options.image else simulated_jpeg()
    width, height = image_size(encoded)
    size = tuple(int(v) for v in options.size.split("x"))
    target = (size[0], size[1])
    K = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]])
    bent = Camera("c", width, height, K, np.eye(4), np.array([-0.3, 0.1, 0.001, 0.001, 0.0]))
    rectifier = Rectifier(bent, target)
    full_rectifier = Rectifier(bent)
    buffer = np.frombuffer(encoded, np.uint8)
    ways: dict[str, Callable[[], Any]] = {
        "OpenCV, full decode": lambda: cv2.imdecode(buffer, cv2.IMREAD_COLOR),
        "OpenCV, full decode + area": lambda: cv2.resize(
            cv2.imdecode(buffer, cv2.IMREAD_COLOR), target, interpolation=cv2.INTER_AREA
        ),
        "OpenCV, reduced by 2 + area": lambda: cv2.resize(
            cv2.imdecode(buffer, cv2.IMREAD_REDUCED_COLOR_2), target, interpolation=cv2.INTER_AREA
        ),
        "bevstack, full decode": lambda: decode(encoded),
        "bevstack, full decode + area": lambda: resize(decode(encoded), target),
        "bevstack, DCT-scaled decode": lambda: decode(encoded, target, exact=False),
        "bevstack, DCT-scaled decode + rest": lambda: decode(encoded, target),
        "bevstack, full decode + bicubic (Pillow)": lambda: decode(encoded, target, "bicubic"),
        "bevstack, full decode, undistort, area": lambda: resize(full_rectifier(decode(encoded)), target),
        "bevstack, DCT-scaled decode, undistort and resize in one": lambda: rectifier(decode(encoded, target, exact=False)),
    }
    results: dict[str, float] = {name: median_ms(call, options.repeat) for name, call in ways.items()}
    kib = len(encoded) / 1024
    print(f"{width}x{height} JPEG of {kib:.0f} KiB to {target[0]}x{target[1]}, one thread, median of {options.repeat}")
    exact = resize(decode(encoded), target).astype(np.float64)
    rest = {"area": resize(decode(encoded, target, exact=False), target), "decode's choice": decode(encoded, target)}
    for name, image in rest.items():
        error = 10 * np.log10(255**2 / np.mean((image - exact) ** 2))
        print(f"  DCT-scaled decode + rest by {name}: {error:.1f} dB PSNR to full decode + area")
    for name, value in results.items():
        print(f"  {name:<58} {value:7.2f} ms")
    rates = {workers: pool_rate(encoded, bent, target, workers, max(2, options.repeat // 4)) for workers in (1, 2)}
    for workers, rate in rates.items():
        print(f"  pool of {workers} worker{'s' if workers > 1 else ' '}, six cameras {'':<31} {rate:7.0f} frames/s")
    if options.json:
        host = {"machine": platform.machine(), "python": platform.python_version(), "opencv": cv2.__version__}
        table = {"size": [width, height], "target": target, "ms": results, "pool_frames_per_s": rates, "host": host}
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
