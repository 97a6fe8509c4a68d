"""A small codec, saved once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tiny import make_net, tiny_config


@pytest.fixture(scope="session", params=["scalar", "dependent"])
def tiny_weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with each quantiser."""
    pytest.importorskip("torch")
    from bevstack.codec.config import QuantiserConfig
    from bevstack.codec.weights import save_weights

    path = tmp_path_factory.mktemp("codec") / "codec-tiny.safetensors"
    save_weights(path, make_net(tiny_config(quantiser=QuantiserConfig(request.param))), {"what": "test"})
    return path


@pytest.fixture(scope="session")
def tiny_codec(tiny_weights: Path):  # type: ignore[no-untyped-def]
    from bevstack.codec.codec import ImageCodec

    return ImageCodec(tiny_weights)


@pytest.fixture(scope="session")
def nano():  # type: ignore[no-untyped-def]
    """The shipped weights."""
    pytest.importorskip("torch")
    from bevstack.codec.codec import ImageCodec

    return ImageCodec("codec-nano")
