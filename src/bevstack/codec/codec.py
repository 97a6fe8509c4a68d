"""The image codec: pixels to bytes and back. ``ImageCodec`` puts networks, entropy coder, bitstream and rate control together.

How a frame is coded (brief codec-common, sections 4 and 5): the analysis gives the latent y; gains of the rate point scale it;
the hyper latent z is coded first; from z alone an integer network picks the coding table of every symbol, so that any machine
parses the stream in the same way; the symbols are ``round(y - mean)``, or what `dependent` makes of ``y - mean``. Means and
everything after them are ordinary floating point: they can shift the picture by a rounding error, never the parsing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BitstreamError, EngineError

from . import bitstream, latents, rans
from .bitstream import Capture, Damage, Header, Limits, Stream
from .config import HYPER_STRIDE, STRIDE, CodecConfig
from .dependent import machine_of
from .gains import RATE_UNIT, Floats, Gains, RatePlane, offsets_from_weights
from .graph_names import passes_of
from .networks import EngineName, Networks, open_networks
from .tiles import TileGrid
from .weights import find_weights, load_arrays

Pixels = NDArray[np.uint8]
QUALITY_CELL = 6  # regions of interest have cells of 2^6 pixels: one hyper position


@dataclass(frozen=True)
class Encoded:
    """Result of ``ImageCodec.encode``.

    Attributes:
        data: the frame, decodable on its own.
        width, height: of the picture.
        rate: rate point that was used, 0 .. levels - 1.
        bits: of the whole frame, 8 * len(data); ``estimated_bits``: what the coding tables alone ask for.
        encodes: how often latent, means and symbols were computed to meet the target.
        timings: milliseconds per stage.
    """

    data: bytes
    width: int
    height: int
    rate: float
    estimated_bits: float
    encodes: int
    timings: dict[str, float]

    @property
    def bits(self) -> int:
        return 8 * len(self.data)

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole frame."""
        return self.bits / (self.width * self.height)


@dataclass(frozen=True)
class Decoded:
    """Result of ``ImageCodec.decode``.

    Attributes:
        rgb: (H, W, 3) uint8.
        header: of the frame.
        damage: segments that were lost; their part of the picture is filled in from what is left.
        matched: False if the frame was made for another decoder's weights than these.
        timings: milliseconds per stage.
    """

    rgb: Pixels
    header: Header
    damage: tuple[Damage, ...]
    matched: bool
    timings: dict[str, float]

    @property
    def report(self) -> list[str]:
        """One line per damaged segment; empty if all is well."""
        return [str(d) for d in self.damage]


@dataclass(frozen=True, eq=False)
class Parsed:
    """The integers of a frame.

    Attributes:
        z: (Z, a, b) hyper latent.
        symbols: (M, h, w) latent residuals, in steps of the quantiser; 0 where they are lost.
    """

    header: Header
    plane: RatePlane
    z: NDArray[np.int32]
    symbols: NDArray[np.int32]
    damage: tuple[Damage, ...]


@dataclass
class _Clock:
    """Adds up stages."""

    timings: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now


@dataclass
class _Coded:
    """One try: symbols, tables and the natural latent as a decoder will see it."""

    plane: RatePlane
    z: NDArray[np.int32]
    z_tables: NDArray[np.uint8]
    symbols: NDArray[np.int32]
    tables: NDArray[np.uint8]
    decoded: Floats
    bits: float


class ImageCodec:
    """One codec model on one engine. Not shared between threads at the same time.

    Args:
        weights: name ("codec-nano") or path of a weights file.
        engine: "torch" or "onnx".
        threads: of the engine.

    Raises:
        CheckpointError: no or damaged weights.
        EngineError: the engine cannot run them, or answers the self-test wrongly.
    """

    def __init__(self, weights: str | Path = "codec-nano", engine: EngineName = "torch", threads: int = 1) -> None:
        self.path = find_weights(weights)
        self.info, arrays, self.tables = load_arrays(self.path)
        self.gains = Gains(self.info.config.rate, arrays)
        self._z_table = arrays["z_table"].astype(np.uint8)
        self._plain = self.tables.with_skip(0)
        self.machine = machine_of(self.config.quantiser, self.config.distribution.count)
        self.networks: Networks = open_networks(self.info, arrays, engine, threads)
        self._passes = passes_of(self.config)
        self.layers = max(1, self._passes)  # of segments: one per pass

        # How far the real log2(bytes / pixel) and PSNR of usual photographs are from rate control's stand-ins, at rate points
        # in equal steps from the lowest to the highest.
        self.usual_bytes = _numbers(self.info.card.get("usual_bytes"), 0.5)
        self.usual_psnr = _numbers(self.info.card.get("usual_psnr"), 4.0)

    @property
    def config(self) -> CodecConfig:
        return self.info.config

    @property
    def engine(self) -> str:
        return self.networks.engine

    def close(self) -> None:
        """Frees the networks."""
        self.networks.close()

    def encode(
        self,
        rgb: Pixels,
        *,
        quality: float | None = None,
        max_bytes: int | None = None,
        psnr: float | None = None,
        roi: NDArray[Any] | None = None,
        tile: int = 0,
        capture: Capture | None = None,
    ) -> Encoded:
        """Codes a picture to one of three targets.

        Args:
            rgb: (H, W, 3) uint8.
            quality: 0..100, linear in the rate point; 50 if no target is given.
            max_bytes: at most this many bytes for the whole frame, as close below as three tries get.
            psnr: at least this PSNR in dB (decodes inside).
            roi: (H, W) distortion weights, 1 = neutral: an error under weight 4 counts four times.
            tile: side of independent tiles in pixels, a multiple of 64; 0: one tile. Tiles limit what a lost packet costs.
            capture: origin of the frame, for the header.

        Raises:
            ValueError: an argument is out of range.
            EngineError: a network failed.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not all(1 <= s <= 0xFFFF for s in rgb.shape[:2]):
            raise ValueError(f"picture is {rgb.dtype} {rgb.shape}: expected uint8 (height, width, 3)")
        if sum(target is not None for target in (quality, max_bytes, psnr)) > 1:
            raise ValueError("give one of quality, max_bytes and psnr")
        if tile % 64 or not 0 <= tile <= 255 * 64:
            raise ValueError(f"tile size {tile} is no multiple of 64 up to 16320")
        if quality is not None and not 0.0 <= quality <= 100.0:
            raise ValueError(f"quality {quality} is outside 0..100")
        if roi is not None and roi.shape != rgb.shape[:2]:
            raise ValueError(f"region weights are {roi.shape}, the picture is {rgb.shape[:2]}")
        job = self.job(rgb, roi, tile, capture)
        if max_bytes is not None:
            return job.to_bytes(max_bytes)
        if psnr is not None:
            return job.to_psnr(psnr)
        return job.finish(job.try_rate((50.0 if quality is None else quality) / 100.0 * (self.config.rate.levels - 1)))

    def job(self, rgb: Pixels, roi: NDArray[Any] | None = None, tile: int = 0, capture: Capture | None = None) -> _Job:
        """Analyses a picture; what follows depends on the rate."""
        clock = _Clock()
        height, width = rgb.shape[:2]
        offsets = None if roi is None else offsets_from_weights(roi, self.config.rate, 1 << QUALITY_CELL)
        if offsets is not None and not offsets.any():
            offsets = None
        padded = np.pad(rgb, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")
        clock.lap("prepare")
        latent = self.networks.run("analysis", rgb=padded[None])["latent"]
        clock.lap("analysis")
        return _Job(self, rgb, latent, offsets, tile // 64, capture, clock)

    def decode(self, data: bytes | bytearray | memoryview, limits: Limits | None = None) -> Decoded:
        """Decodes a frame. Lost tiles are filled in and reported.

        Raises:
            BitstreamError: not a frame, made by another model, beyond ``limits``, or its hyper latent is lost.
            EngineError: a network failed.
        """
        clock = _Clock()
        parsed = self.parse(data, limits, clock)
        header, plane = parsed.header, parsed.plane
        z, levels = parsed.z[None].astype(np.float32), plane.levels(*parsed.z.shape[-2:]).astype(np.float32)
        natural = self._reconstruct(parsed.symbols, z, levels[None, None], plane)
        clock.lap("means")
        rgb = self._synthesise(natural[None], plane)[: header.height, : header.width]
        clock.lap("synthesis")
        matched = header.reconstruction_id is None or header.reconstruction_id == self.info.reconstruction_id
        return Decoded(np.ascontiguousarray(rgb), header, parsed.damage, matched, clock.timings)

    def parse(self, data: bytes | bytearray | memoryview, limits: Limits | None = None, clock: _Clock | None = None) -> Parsed:
        """The integers of a frame, without a picture: what every decoder on every machine must agree on.

        Raises:
            BitstreamError: as ``decode``.
        """
        clock = clock or _Clock()
        stream = bitstream.read(data, limits)
        header = stream.header
        self._accept(stream)
        plane = RatePlane(header.rate / RATE_UNIT, header.quality, self.config.rate)
        h, w = header.grid.latent_shape
        a, b = -(-h // HYPER_STRIDE), -(-w // HYPER_STRIDE)
        levels = plane.levels(a, b)
        if stream.hyper[0] is None:
            raise BitstreamError(
                f"coded frame: {stream.damage[0] if stream.damage else 'no hyper segment'}; nothing can be shown"
            )
        z = rans.decode(stream.hyper[0], self._z_tables(levels), self._plain).reshape(-1, a, b)
        clock.lap("entropy decoding")
        tables = self._tables(z[None].astype(np.float32), levels.astype(np.float32)[None, None], h, w)
        clock.lap("scale net")
        used = self.tables if header.skip_below is None else self.tables.with_skip(min(header.skip_below, len(self.tables)))
        symbols, problems = latents.decode_latent(
            stream.layers, tables, header.grid, used, header.channels, self.layers, self.machine
        )
        damage = list(stream.damage)
        known = {(d.layer, d.index) for d in damage}
        for number, row in enumerate(problems):
            for index, problem in enumerate(row):
                if problem is not None and (number, index) not in known:
                    damage.append(Damage(number, index, problem))
        clock.lap("entropy decoding")
        return Parsed(header, plane, z, symbols, tuple(damage))

    def _accept(self, stream: Stream) -> None:
        """Raises BitstreamError unless the stream has the shape that this model writes."""
        header, name = stream.header, self.config.name
        if header.model_id != self.info.model_id:
            raise BitstreamError(
                f"coded frame: made by model {header.model_id.hex()}, this is {name} {self.info.model_id.hex()}: "
                "decode it with the weights that it was made with"
            )
        if len(stream.hyper) != 1 or len(stream.layers) != self.layers:
            raise BitstreamError(
                f"coded frame: {len(stream.hyper)} hyper segments and {len(stream.layers)} layers; "
                f"{name} has 1 and {self.layers}"
            )
        if header.reference is not None:
            raise BitstreamError(f"coded frame: needs frame {header.reference}; {name} decodes frames that stand alone")
        if header.quality is not None and header.quality_cell != QUALITY_CELL:
            raise BitstreamError(f"coded frame: quality cells of 2^{header.quality_cell} pixels; {name} uses 2^{QUALITY_CELL}")
        if header.channels is not None and len(header.channels) != self.config.latent:
            raise BitstreamError(f"coded frame: a mask of {len(header.channels)} channels; {name} has {self.config.latent}")
        if header.rate > (self.config.rate.levels - 1) * RATE_UNIT:
            raise BitstreamError(f"coded frame: rate point {header.rate} is above {(self.config.rate.levels - 1) * RATE_UNIT}")

    def _z_tables(self, levels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(Z, a, b) coding table of every hyper symbol."""
        return np.ascontiguousarray(np.moveaxis(self._z_table[levels], -1, 0))

    def _tables(self, z: Floats, plane: Floats, h: int, w: int) -> NDArray[np.uint8]:
        """(M, h, w) coding table of every symbol."""
        index = self.networks.run("scales", z=z, plane=plane)["index"][0]
        return np.ascontiguousarray(index[:, :h, :w])

    def _first(self, z: Floats, plane: Floats, h: int, w: int) -> tuple[Floats, Floats]:
        """(features (1, F, h, w), natural means of pass 1 (M, >= h, >= w))."""
        out = self.networks.run("first", z=z, plane=plane)
        return np.ascontiguousarray(out["features"][..., :h, :w]), out["mean"][0]

    def _second(self, features: Floats, anchors: Floats) -> Floats:
        """(M, h, w) natural means of pass 2, from the (M, h, w) natural latent at the anchors, 0 elsewhere."""
        return self.networks.run("second", features=features, decoded=anchors[None])["mean"][0]

    def _reconstruct(self, symbols: NDArray[np.int32], z: Floats, levels: Floats, plane: RatePlane) -> Floats:
        """(M, h, w) natural latent of the symbols."""
        h, w = symbols.shape[-2:]
        gain, inverse = (factor[0] for factor in self.gains.latent(plane, h, w))
        natural = np.zeros(symbols.shape, np.float32)
        step = 1.0 if self.machine is None else self.machine.step

        def reconstruct(mean: Floats, parity: int) -> None:
            latents.reconstruct(symbols, gain, inverse, mean, natural, parity, step)

        if self._passes == 0:
            reconstruct(natural.copy(), latents.EVERYWHERE)
            return natural
        features, mean = self._first(z, levels, h, w)
        reconstruct(mean, latents.ANCHORS if self._passes == 2 else latents.EVERYWHERE)
        if self._passes == 2:
            reconstruct(self._second(features, natural), latents.OTHERS)
        return natural

    def _synthesise(self, latent: Floats, plane: RatePlane) -> Pixels:
        h, w = latent.shape[-2:]
        rgb: Pixels = self.networks.run("synthesis", latent=latent, **self.gains.conditioning(plane, h, w))["rgb"][0]
        return rgb


def _numbers(value: Any, usual: float) -> Floats:
    """A card's numbers, or the default."""
    try:
        numbers = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        return np.array([usual], np.float32)
    return numbers if numbers.ndim == 1 and numbers.size and np.isfinite(numbers).all() else np.array([usual], np.float32)


class _Job:
    """One picture on its way to a target: the latent is computed once, everything that depends on the rate once per try."""

    def __init__(
        self,
        codec: ImageCodec,
        rgb: Pixels,
        latent: Floats,
        offsets: NDArray[np.int8] | None,
        tile_size: int,
        capture: Capture | None,
        clock: _Clock,
    ) -> None:
        self.codec, self.rgb, self.latent, self.offsets, self.clock = codec, rgb, latent, offsets, clock
        self.tile_size, self.capture = tile_size, capture
        self.height, self.width = rgb.shape[:2]
        self.grid = TileGrid(self.width, self.height, tile_size)
        self.encodes = 0

    def try_rate(self, r: float) -> _Coded:
        """Symbols at a rate point."""
        codec, clock = self.codec, self.clock
        clock.start()
        self.encodes += 1
        base = round(min(max(r, 0.0), codec.config.rate.levels - 1.0) * RATE_UNIT) / RATE_UNIT
        plane = RatePlane(base, self.offsets, codec.config.rate)
        h, w = self.latent.shape[-2:]
        a, b = -(-h // HYPER_STRIDE), -(-w // HYPER_STRIDE)
        gain, inverse = codec.gains.latent(plane, h, w)
        gained = self.latent * gain
        levels = plane.levels(a, b)
        plane_float = levels.astype(np.float32)[None, None]
        z = codec.networks.run("hyper", gained=gained, plane=plane_float)["z"]
        clock.lap("hyper")
        tables = codec._tables(z, plane_float, h, w)
        clock.lap("scale net")
        symbols, natural = np.zeros(tables.shape, np.int32), np.zeros(tables.shape, np.float32)
        bits, machine = 0.0, codec.machine

        def quantise(mean: Floats, parity: int) -> None:
            nonlocal bits
            known = gained[0], gain[0], inverse[0], mean, tables
            if machine is None:
                latents.quantise(*known, codec.tables.skip_below, symbols, natural, parity)
            else:
                bits += latents.quantise_dependent(*known, codec.tables, self.grid, machine, symbols, natural, parity)

        if codec._passes == 0:
            quantise(natural.copy(), latents.EVERYWHERE)
        else:
            features, mean = codec._first(z, plane_float, h, w)
            quantise(mean, latents.ANCHORS if codec._passes == 2 else latents.EVERYWHERE)
            if codec._passes == 2:
                quantise(codec._second(features, natural), latents.OTHERS)
        clock.lap("means")
        z_int = z[0].astype(np.int32)
        z_tables = codec._z_tables(levels)
        if machine is None:
            bits = codec.tables.bits(symbols, tables)
        bits += codec._plain.bits(z_int, z_tables)
        clock.lap("estimate")
        return _Coded(plane, z_int, z_tables, symbols, tables, natural, bits)

    def finish(self, coded: _Coded) -> Encoded:
        """Entropy coding and container."""
        codec = self.codec
        self.clock.start()
        hyper = rans.encode(coded.z, coded.z_tables, codec._plain)
        # A symbol that a mask leaves out would still have moved a dependent quantiser's state.
        channels = None if codec.machine else latents.channel_mask(coded.symbols, coded.tables, codec.tables)
        segments = latents.encode_latent(
            coded.symbols, coded.tables, self.grid, codec.tables, channels, codec.layers, codec.layers, codec.machine
        )
        layers: list[list[bytes | None]] = [list(row) for row in segments]
        header = Header(
            self.width,
            self.height,
            codec.info.model_id,
            rate=round(coded.plane.base * RATE_UNIT),
            reconstruction_id=codec.info.reconstruction_id,
            capture=self.capture,
            tile_size=self.tile_size,
            channels=channels,
            quality=coded.plane.offsets,
            quality_cell=QUALITY_CELL,
        )
        try:
            data = bitstream.write(Stream(header, [hyper], layers))
        except ValueError as error:
            raise EngineError(f"the frame cannot be written: {error}") from error
        self.clock.lap("entropy coding")
        return Encoded(data, self.width, self.height, coded.plane.base, coded.bits, self.encodes, dict(self.clock.timings))

    def to_bytes(self, limit: int) -> Encoded:
        """The largest frame of at most ``limit`` bytes that three tries find.

        Raises:
            ValueError: the lowest rate point already takes more.
        """
        from .control import solve_bytes

        return solve_bytes(self, limit)

    def to_psnr(self, target: float) -> Encoded:
        """The smallest frame of at least ``target`` dB that three tries find; the highest rate point if none reaches it."""
        from .control import solve_psnr

        return solve_psnr(self, target)

    def psnr(self, coded: _Coded) -> float:
        """PSNR-RGB in dB of the picture that a decoder will show."""
        self.clock.start()
        shown = self.codec._synthesise(coded.decoded[None], coded.plane)[: self.height, : self.width]
        self.clock.lap("synthesis")
        error = float(np.mean((shown.astype(np.float32) - self.rgb) ** 2))
        return 10.0 * float(np.log10(255.0**2 / max(error, 1e-6)))
