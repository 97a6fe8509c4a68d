"""Every size of the family codes and decodes a picture, whatever its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from bevstack.codec.codec import ImageCodec
from bevstack.codec.config import CODECS
from bevstack.codec.weights import save_weights

from .tiny import make_net, photograph


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_size_round_trips_with_untrained_weights(name: str, tmp_path: Path):
    config = CODECS[name]
    net = make_net(config, stir=False)
    save_weights(tmp_path / f"{name}.safetensors", net)
    codec = ImageCodec(tmp_path / f"{name}.safetensors")
    picture = photograph(64, 128)
    encoded = codec.encode(picture, quality=70)
    decoded = codec.decode(encoded.data)
    assert decoded.matched
    assert not decoded.report
    error = np.mean((decoded.rgb.astype(float) - picture) ** 2)
    assert 10 * np.log10(65025 / error) > 27


def test_sizes_rise_and_the_largest_fits_a_weights_file():
    """20 MB in float16."""
    from bevstack.codec.model import CodecNet

    counts = [sum(p.numel() for p in CodecNet(CODECS[n]).parameters()) for n in ("codec-nano", "codec-small", "codec-base")]
    assert counts[0] < 1.5e6 < counts[1] < counts[2] / 2
    assert 2 * counts[2] < 19.9e6
