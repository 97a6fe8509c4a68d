"""Every shape and convention of a codec model, stated once. Weights carry this config; encoder, decoder and training read it.

Frames of reference for the numbers inside (docs/codec.md has the picture):

* pixels: uint8 RGB; the networks see ``(pixel - 128) / 64``.
* latent y: (M, h, w), one position per 16 x 16 pixels, in *natural* units (those of the transform).
* gained latent: ``y * gain(r)``, in units of one quantisation step at rate point r. Symbols, means and scales live here.
* hyper latent z: (Z, ceil(h / 4), ceil(w / 4)) integers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bevstack.errors import CheckpointError

STRIDE = 16  # pixels per latent position
HYPER_STRIDE = 4  # latent positions per hyper position
PATCH = 8  # pixels per position of the transform's trunk
PIXEL_CENTRE, PIXEL_SCALE = 128.0, 64.0


@dataclass(frozen=True)
class TransformConfig:
    """Analysis and synthesis transform.

    Attributes:
        kind: name in ``bevstack.codec.transform.TRANSFORMS``.
        channels: trunk width at 1/8 resolution.
        encoder_inner, decoder_inner: width inside the residual blocks at 1/8.
        encoder_blocks, decoder_blocks: residual blocks at 1/8.
        latent_inner: width inside the residual blocks at 1/16.
        encoder_latent_blocks, decoder_latent_blocks: residual blocks at 1/16.
    """

    kind: str = "resdw8"
    channels: int = 96
    encoder_inner: int = 64
    decoder_inner: int = 96
    encoder_blocks: int = 3
    decoder_blocks: int = 6
    latent_inner: int = 96
    encoder_latent_blocks: int = 2
    decoder_latent_blocks: int = 4


@dataclass(frozen=True)
class HyperConfig:
    """Hyper path: analysis of the latent, and the integer network that picks coding tables.

    Attributes:
        channels: Z, channels of the hyper latent.
        width: of the analysis network.
        scale_width: of the integer scale network.
    """

    kind: str = "integer-dw"
    channels: int = 48
    width: int = 96
    scale_width: int = 64


@dataclass(frozen=True)
class MeanConfig:
    """Means of the gained latent, from the hyper latent and, in a second pass, from what is already decoded.

    Attributes:
        kind: name in ``bevstack.codec.context.MEANS``: "none", "hyper" (one pass) or "checkerboard" (two).
        features: width of the hyper features at 1/16.
        hidden: width inside the parameter networks.
        context: width of the context features.
    """

    kind: str = "checkerboard"
    features: int = 96
    hidden: int = 128
    context: int = 64


@dataclass(frozen=True)
class RateConfig:
    """Variable rate: gain vectors at ``knots`` points, interpolated in the logarithm over rate points 0 .. levels - 1.

    Attributes:
        kind: name in ``bevstack.codec.rate.RATES``.
        lambda_min, lambda_max: Lagrange multipliers of the end points, for ``lambda * 255^2 * MSE + bpp`` (MSE of [0, 1]
            pixels).
    """

    kind: Literal["gain"] = "gain"
    levels: int = 64
    knots: int = 8
    lambda_min: float = 0.0005
    lambda_max: float = 0.3


@dataclass(frozen=True)
class DistributionConfig:
    """Coding tables of the latent: zero-mean Gaussians at ``count`` scales in equal steps of the logarithm.

    ``lowest`` and ``highest`` are decimal strings: tables are built from them in exact arithmetic. Symbols whose table is below
    ``skip_below`` are not coded and decode to 0.
    """

    kind: Literal["gaussian"] = "gaussian"
    count: int = 64
    lowest: str = "0.11"
    highest: str = "256"
    skip_below: int = 4


@dataclass(frozen=True)
class QuantiserConfig:
    """What a symbol stands for.

    Attributes:
        kind: "scalar": the residual in units of the gained latent, rounded; "dependent": see ``bevstack.codec.dependent``.
        step: of the dependent quantiser's levels, decimal.
        weight: bits that a squared error of 1 is worth to the encoder of the dependent quantiser, decimal.
    """

    kind: Literal["scalar", "dependent"] = "scalar"
    step: str = "0.75"
    weight: str = "20"


@dataclass(frozen=True)
class CodecConfig:
    """One codec of the family: ``Transform x HyperScaleNet x MeanModel x Distribution x Rate x Coder``.

    Attributes:
        latent: M, channels of the latent.
        coder: entropy coder.
    """

    name: str
    latent: int = 320
    transform: TransformConfig = field(default_factory=TransformConfig)
    hyper: HyperConfig = field(default_factory=HyperConfig)
    mean: MeanConfig = field(default_factory=MeanConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    quantiser: QuantiserConfig = field(default_factory=QuantiserConfig)
    coder: Literal["rans"] = "rans"

    def to_json(self) -> str:
        """Canonical JSON: same config, same string."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """First 16 hexadecimal digits of the config's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @staticmethod
    def from_json(text: str) -> CodecConfig:
        """Inverse of ``to_json``.

        Raises:
            CheckpointError: if the text is no config of this version.
        """
        try:
            values: dict[str, Any] = dict(json.loads(text))
            for name, kind in _NESTED.items():
                if name in values:
                    values[name] = kind(**values[name])
            return CodecConfig(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"codec config inside the weights cannot be read ({error}): re-export the weights") from error


_NESTED: dict[str, Any] = {
    "transform": TransformConfig,
    "hyper": HyperConfig,
    "mean": MeanConfig,
    "rate": RateConfig,
    "distribution": DistributionConfig,
    "quantiser": QuantiserConfig,
}

_NANO = CodecConfig("codec-nano")

CODECS: dict[str, CodecConfig] = {
    c.name: c
    for c in (
        _NANO,
        replace(
            _NANO,
            name="codec-small",
            transform=TransformConfig(
                channels=192,
                encoder_inner=192,
                decoder_inner=192,
                encoder_blocks=4,
                decoder_blocks=8,
                latent_inner=256,
                encoder_latent_blocks=2,
                decoder_latent_blocks=4,
            ),
            hyper=HyperConfig(channels=96, width=192, scale_width=128),
            mean=MeanConfig(features=192, hidden=320, context=128),
            quantiser=QuantiserConfig("dependent"),
        ),
        replace(
            _NANO,
            name="codec-base",
            transform=TransformConfig(
                channels=320,
                encoder_inner=320,
                decoder_inner=320,
                encoder_blocks=6,
                decoder_blocks=12,
                latent_inner=448,
                encoder_latent_blocks=4,
                decoder_latent_blocks=6,
            ),
            hyper=HyperConfig(channels=128, width=256, scale_width=160),
            mean=MeanConfig(features=288, hidden=512, context=192),
            quantiser=QuantiserConfig("dependent"),
        ),
    )
}
