"""Rate and distortion of codecs over a set of pictures: every file is really written, read back and compared."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

from .baselines import Baseline
from .bd_rate import BdRate, Curve, CurveError, Metric, Point, bd_rate
from .metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr, to_db

if TYPE_CHECKING:
    from .codec import ImageCodec

Image = NDArray[np.uint8]
Progress = Callable[[int, int, str], None]
"""Called with work done, all work, and what is being worked on."""

PICTURE_SUFFIXES = (".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
LEARNED_QUALITIES = (0.0, 14.0, 28.0, 42.0, 56.0, 70.0, 85.0, 100.0)
# SHA-256 over the pixels of Kodak's 24 pictures (sorted by their own hashes): published curves hold for this set alone.
KODAK_PIXELS = "8f35abaf130ed9d45f96e83467c85347848c9c6f3b659f2e0bc97b9ea78ca409"


class EvaluationError(BevstackError):
    """There is nothing to evaluate, or a codec gives back something that is no picture of the set."""


@dataclass(frozen=True)
class Coded:
    """One file: its bytes, milliseconds per stage, and the bits that the model expected (None where there is no model)."""

    data: bytes
    stages: Mapping[str, float]
    estimated_bits: float | None = None


class PictureCodec(Protocol):
    """What ``evaluate`` needs of a codec."""

    @property
    def name(self) -> str: ...

    @property
    def qualities(self) -> Sequence[float]: ...

    def encode(self, rgb: Image, quality: float) -> Coded: ...

    def decode(self, data: bytes) -> tuple[Image, Mapping[str, float]]: ...


@dataclass(frozen=True)
class Classical:
    """A baseline as ``PictureCodec``."""

    baseline: Baseline

    @property
    def name(self) -> str:
        return self.baseline.name

    @property
    def qualities(self) -> Sequence[float]:
        return self.baseline.qualities

    def encode(self, rgb: Image, quality: float) -> Coded:
        data, ms = self.baseline.encode(rgb, quality)
        return Coded(data, {"total": ms})

    def decode(self, data: bytes) -> tuple[Image, Mapping[str, float]]:
        rgb, ms = self.baseline.decode(data)
        return rgb, {"total": ms}


class Learned:
    """An ``ImageCodec`` as ``PictureCodec``: stages as the codec tells them, and their sum.

    Args:
        codec: loaded weights.
        name: for tables; None: that of the weights' config.
        qualities: operating points.
    """

    def __init__(self, codec: ImageCodec, name: str | None = None, qualities: Sequence[float] = LEARNED_QUALITIES) -> None:
        self.codec = codec
        self.name = name or codec.config.name
        self.qualities: Sequence[float] = tuple(qualities)

    def encode(self, rgb: Image, quality: float) -> Coded:
        made = self.codec.encode(rgb, quality=quality)
        return Coded(made.data, with_total(made.timings), made.estimated_bits)

    def decode(self, data: bytes) -> tuple[Image, Mapping[str, float]]:
        shown = self.codec.decode(data)
        if shown.damage:
            raise EvaluationError(f"{self.name} cannot read its own stream: {shown.report[0]}")
        return shown.rgb, with_total(shown.timings)


def with_total(stages: Mapping[str, float]) -> dict[str, float]:
    """Stages and their sum, milliseconds."""
    return {**stages, "total": sum(stages.values())}


@dataclass(frozen=True)
class Sample:
    """One picture at one quality."""

    picture: str
    quality: float
    pixels: int
    bytes: int
    psnr: float
    ms_ssim: float | None
    estimated_bits: float | None
    encode_ms: Mapping[str, float]
    decode_ms: Mapping[str, float]

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return 8.0 * self.bytes / self.pixels


@dataclass(frozen=True)
class Row:
    """Mean over the set at one quality; stages are medians.

    Attributes:
        estimated_bpp: bits per pixel that the model expected, without headers; None where there is no model.
    """

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float | None
    estimated_bpp: float | None
    encode_ms: Mapping[str, float]
    decode_ms: Mapping[str, float]

    @property
    def ms_ssim_db(self) -> float | None:
        return None if self.ms_ssim is None else to_db(self.ms_ssim)


@dataclass
class Evaluation:
    """All samples of one codec."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """One row per quality, in rising order."""
        return [
            _row(quality, [s for s in self.samples if s.quality == quality])
            for quality in sorted({s.quality for s in self.samples})
        ]

    @property
    def curve(self) -> Curve:
        """The codec's rate-distortion curve."""
        return Curve(self.name, tuple(Point(r.bpp, r.psnr, r.ms_ssim_db) for r in self.rows))

    def stages(self) -> tuple[dict[str, float], dict[str, float]]:
        """Median milliseconds per stage of (encoding, decoding) over all samples."""
        return _medians([s.encode_ms for s in self.samples]), _medians([s.decode_ms for s in self.samples])


@dataclass(frozen=True)
class Result:
    """What ``evaluate`` measured.

    Attributes:
        evaluations: per codec.
        pictures: names in order.
        digest: of the pixels of the whole set.
        load: (1-minute load average before, after).
        pixels: of the first picture, for times.
    """

    evaluations: list[Evaluation]
    pictures: list[str]
    digest: str
    load: tuple[float, float]
    pixels: int

    @property
    def is_kodak(self) -> bool:
        """The set is Kodak's 24 pictures, pixel for pixel: published curves may be compared with."""
        return self.digest == KODAK_PIXELS


def find_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder (not of its sub-folders), by name; or the one file that is named.

    Raises:
        EvaluationError: there are none.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise EvaluationError(f"picture folder {folder} does not exist: give a folder of pictures")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise EvaluationError(f"folder {folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
    return found


def load_picture(path: Path) -> Image:
    """(H, W, 3) uint8 RGB.

    Raises:
        EvaluationError: not a picture.
    """
    from PIL import Image as pil

    try:
        with pil.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise EvaluationError(f"picture {path} cannot be read: {error}") from None


def evaluate(
    codecs: Sequence[PictureCodec],
    pictures: Sequence[Path],
    *,
    qualities: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Encode every picture with every codec at each of its qualities, decode the bytes, compare.

    The first picture goes through every codec once before, unmeasured: compiling and loading are no part of a stage's time.

    Args:
        codecs: classical or learned.
        pictures: files; one is in memory at a time.
        qualities: operating points of learned codecs (those that are not ``Classical``); None: each codec's own.
        progress: told after each file.

    Raises:
        EvaluationError: no pictures or no codecs, a picture that cannot be read, a decoded picture of another size.
    """
    if not pictures or not codecs:
        raise EvaluationError(f"nothing to evaluate: {len(pictures)} pictures, {len(codecs)} codecs")
    points = [list(codec.qualities if qualities is None or isinstance(codec, Classical) else qualities) for codec in codecs]
    total, done = len(pictures) * sum(map(len, points)), 0
    evaluations = [Evaluation(codec.name) for codec in codecs]
    hashes: list[str] = []
    before, first = _load(), 0
    for number, path in enumerate(pictures):
        rgb = load_picture(path)
        hashes.append(hashlib.sha256(np.array(rgb.shape, np.uint32).tobytes() + rgb.tobytes()).hexdigest())
        if number == 0:
            first = rgb.shape[0] * rgb.shape[1]
            for codec, chosen in zip(codecs, points):
                codec.decode(codec.encode(rgb, chosen[len(chosen) // 2]).data)
        for codec, chosen, evaluation in zip(codecs, points, evaluations):
            for quality in chosen:
                evaluation.samples.append(measure(codec, path.name, rgb, quality))
                done += 1
                if progress is not None:
                    progress(done, total, f"{path.name} {codec.name}")
    digest = hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
    return Result(evaluations, [p.name for p in pictures], digest, (before, _load()), first)


def measure(codec: PictureCodec, name: str, rgb: Image, quality: float) -> Sample:
    """One file written, read back and compared.

    Raises:
        EvaluationError: the decoded picture has another size.
    """
    coded = codec.encode(rgb, quality)
    decoded, decode_ms = codec.decode(coded.data)
    if decoded.shape != rgb.shape:
        raise EvaluationError(f"{codec.name} gave back {decoded.shape} for {name}, which is {rgb.shape}")
    large = min(rgb.shape[:2]) >= MS_SSIM_MIN_SIDE
    return Sample(
        picture=name,
        quality=float(quality),
        pixels=rgb.shape[0] * rgb.shape[1],
        bytes=len(coded.data),
        psnr=psnr(rgb, decoded),
        ms_ssim=ms_ssim(rgb, decoded) if large else None,
        estimated_bits=coded.estimated_bits,
        encode_ms=dict(coded.stages),
        decode_ms=dict(decode_ms),
    )


@dataclass(frozen=True)
class Comparison:
    """BD-rate of one codec against an anchor: ``result`` or, where there is none, why."""

    codec: str
    anchor: str
    metric: Metric
    result: BdRate | None
    reason: str = ""
    source: str = ""


def compare(
    tests: Sequence[Curve], anchors: Sequence[Curve], metrics: Sequence[Metric] = ("psnr", "ms_ssim_db")
) -> list[Comparison]:
    """BD-rates of each test curve against each anchor; where a pair gives none, the reason."""
    made = []
    for metric in metrics:
        for test in tests:
            for anchor in anchors:
                try:
                    result, reason = bd_rate(anchor, test, metric), ""
                except CurveError as error:
                    result, reason = None, str(error)
                made.append(Comparison(test.name, anchor.name, metric, result, reason, anchor.source))
    return made


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    processor = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def as_json(result: Result, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything measured, as plain data."""
    return {
        "machine": machine(),
        "load_average": list(result.load),
        "pictures": result.pictures,
        "kodak": result.is_kodak,
        "pixels_of_first": result.pixels,
        "codecs": [
            {
                "name": evaluation.name,
                "rows": [{**vars(row), "ms_ssim_db": row.ms_ssim_db} for row in evaluation.rows],
                "encode_ms": evaluation.stages()[0],
                "decode_ms": evaluation.stages()[1],
                "samples": [{**vars(sample), "bpp": sample.bpp} for sample in evaluation.samples],
            }
            for evaluation in result.evaluations
        ],
        "bd_rate": [
            {
                "codec": c.codec,
                "anchor": c.anchor,
                "metric": c.metric,
                "percent": None if c.result is None else c.result.percent,
                "range_db": None if c.result is None else [c.result.low, c.result.high],
                "reason": c.reason,
                "source": c.source,
            }
            for c in comparisons
        ],
    }


def _row(quality: float, samples: Sequence[Sample]) -> Row:
    def mean(values: Iterator[float | None]) -> float | None:
        kept = list(values)
        return None if any(v is None for v in kept) else float(np.mean([v for v in kept if v is not None]))

    return Row(
        quality=quality,
        bpp=float(np.mean([s.bpp for s in samples])),
        psnr=float(np.mean([s.psnr for s in samples])),
        ms_ssim=mean(s.ms_ssim for s in samples),
        estimated_bpp=mean(None if s.estimated_bits is None else s.estimated_bits / s.pixels for s in samples),
        encode_ms=_medians([s.encode_ms for s in samples]),
        decode_ms=_medians([s.decode_ms for s in samples]),
    )


def _medians(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in stages for name in entry)
    return {name: float(np.median([entry[name] for entry in stages if name in entry])) for name in names}


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
