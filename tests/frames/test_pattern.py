"""The test pattern: steady stamps, full-size pictures in both forms, refusal of nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.errors import SourceError
from bevstack.frames.decode import decode
from bevstack.frames.source import open_source


def test_pattern() -> None:
    with open_source("pattern:width=320,rate=4,duration=1") as source:
        assert next(iter(source.cameras)) == "cam_front"
        assert source.rate == 4
        frames = list(source.frames())
        instants = list(source)
    assert len(frames) == 24
    assert len(instants) == 4
    stamps = sorted({frame.stamp for frame in frames})
    assert np.diff(stamps).tolist() == [250_000_000] * 3
    first = frames[0]
    assert first.image is not None
    assert first.encoded is not None
    assert first.image.shape == (180, 320, 3)
    assert np.abs(decode(first.encoded).astype(int) - first.image).mean() < 12, "both forms show the same"


@pytest.mark.parametrize("spec", ["pattern:cameras=7", "pattern:rate=0", "pattern:duration=-1", "pattern:colour=red"])
def test_nonsense_is_refused(spec: str) -> None:
    with pytest.raises(SourceError, match="pattern"):
        open_source(spec)
