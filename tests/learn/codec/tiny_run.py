"""A codec small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace

from bevstack.codec.config import CODECS, CodecConfig, HyperConfig, MeanConfig, TransformConfig

TINY: CodecConfig = replace(
    CODECS["codec-nano"],
    name="codec-tiny",
    latent=32,
    transform=TransformConfig(
        channels=24,
        encoder_inner=12,
        decoder_inner=12,
        encoder_blocks=1,
        decoder_blocks=2,
        latent_inner=12,
        encoder_latent_blocks=1,
        decoder_latent_blocks=2,
    ),
    hyper=HyperConfig(channels=8, width=16, scale_width=16),
    mean=MeanConfig(features=16, hidden=24, context=8),
)
