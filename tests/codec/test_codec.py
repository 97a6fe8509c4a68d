"""ImageCodec: round trips, determinism across engines, damage, targets, regions of interest."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import itertools

from bevstack.codec import bitstream
from bevstack.codec.codec import ImageCodec
from bevstack.codec.config import CODECS, CodecConfig, MeanConfig
from bevstack.codec.gains import RatePlane, offsets_from_weights
from bevstack.codec.weights import load_arrays, load_weights, read_info, save_weights
from bevstack.errors import BitstreamError, CheckpointError, EngineError

from .tiny import make_net, photograph, tiny_config


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(65025 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("size", [(1, 1), (17, 90), (64, 64), (130, 207)])
def test_any_size_round_trips(tiny_codec: ImageCodec, size: tuple[int, int]):
    picture = photograph(*size)
    encoded = tiny_codec.encode(picture, quality=60)
    decoded = tiny_codec.decode(encoded.data)
    assert decoded.rgb.shape == picture.shape
    assert decoded.rgb.dtype == np.uint8
    assert decoded.matched
    assert not decoded.report
    assert abs(encoded.bits - encoded.estimated_bits) < 0.01 * encoded.estimated_bits + 8 * 90


def test_decoder_sees_what_the_encoder_computed(tiny_codec: ImageCodec):
    picture = photograph(96, 160)
    encoded = tiny_codec.encode(picture, psnr=33.0)
    assert psnr(tiny_codec.decode(encoded.data).rgb, picture) >= 33.0 - 1e-3


def test_quality_buys_fidelity_with_bits_monotonically(tiny_codec: ImageCodec):
    picture = photograph(128, 128)
    results = [tiny_codec.encode(picture, quality=q) for q in np.linspace(0, 100, 21)]
    sizes = [r.estimated_bits for r in results]
    assert all(b > a for a, b in itertools.pairwise(sizes))
    errors = [psnr(tiny_codec.decode(r.data).rgb, picture) for r in results[::5]]
    assert errors == sorted(errors)


def test_rate_is_continuous(tiny_codec: ImageCodec):
    picture = photograph(128, 128)
    sizes = [tiny_codec.encode(picture, quality=q).estimated_bits for q in np.linspace(50, 51, 5)]
    assert max(abs(b / a - 1) for a, b in itertools.pairwise(sizes)) < 0.04


def test_a_size_that_cannot_be_met_says_what_it_takes(tiny_codec: ImageCodec):
    with pytest.raises(ValueError, match="lowest rate point"):
        tiny_codec.encode(photograph(192, 256), max_bytes=60)


def test_arguments_are_checked(tiny_codec: ImageCodec):
    picture = photograph(64, 64)
    for arguments in (
        {"quality": 101},
        {"quality": 5, "psnr": 30},
        {"max_bytes": 0},
        {"tile": 100},
        {"roi": np.ones((3, 3))},
        {"roi": np.zeros((64, 64))},
        {"psnr": float("nan")},
    ):
        with pytest.raises(ValueError):
            tiny_codec.encode(picture, **arguments)
    with pytest.raises(ValueError):
        tiny_codec.encode(picture.astype(np.float32))


def test_tiles_carry_the_same_symbols_and_a_lost_one_stays_local(tiny_codec: ImageCodec):
    picture = photograph(256, 384)
    whole = tiny_codec.parse(tiny_codec.encode(picture, quality=50).data)
    data = tiny_codec.encode(picture, quality=50, tile=128).data
    tiled = tiny_codec.parse(data)
    if tiny_codec.machine is None:
        np.testing.assert_array_equal(whole.symbols, tiled.symbols)
    else:  # each tile is searched by itself, and what it finds is as close to the latent
        same = (whole.symbols == tiled.symbols) | (np.abs(whole.symbols - tiled.symbols) <= 4)
        assert same.all()
    good = tiny_codec.decode(data).rgb
    stream = bitstream.read(data)
    layout = bitstream.read_layout(data)
    # Damage the anchors of tile 1 (top row, middle).
    start = layout.start + layout.entries[0].length + layout.entries[1].length
    broken = bytearray(data)
    broken[start + layout.entries[2].length // 2] ^= 0x55
    decoded = tiny_codec.decode(bytes(broken))
    assert [(d.layer, d.index) for d in decoded.damage] == [(0, 1)]
    far = np.s_[160:, :]
    assert len(stream.layers) == 2
    assert np.abs(decoded.rgb[far].astype(int) - good[far]).max() <= 1
    assert np.abs(decoded.rgb[:128, 128:256].astype(int) - good[:128, 128:256]).max() > 3


def test_a_stream_of_another_model_is_refused(tiny_codec: ImageCodec, tmp_path: Path):
    other = make_net(tiny_config(), seed=7)
    save_weights(tmp_path / "codec-other.safetensors", other)
    data = ImageCodec(tmp_path / "codec-other.safetensors").encode(photograph(64, 64), quality=40).data
    with pytest.raises(BitstreamError, match="weights that it was made with"):
        tiny_codec.decode(data)


def test_lost_hyper_latent_is_an_error_not_a_picture(tiny_codec: ImageCodec):
    data = bytearray(tiny_codec.encode(photograph(64, 64), quality=40).data)
    data[bitstream.read_layout(bytes(data)).start] ^= 1
    with pytest.raises(BitstreamError, match="hyper"):
        tiny_codec.decode(bytes(data))


def test_random_damage_ends_in_a_picture_or_a_bitstream_error(tiny_codec: ImageCodec):
    data = tiny_codec.encode(photograph(64, 96), quality=50, tile=64).data
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
        for _ in range(rng.integers(0, 4)):
            broken[rng.integers(len(broken))] = rng.integers(256)
        try:
            outcomes.add(tiny_codec.parse(bytes(broken)).symbols.shape)
        except BitstreamError:
            outcomes.add("error")
    assert outcomes == {(48, 4, 6), "error"}


def test_engines_decode_each_others_streams_to_the_same_symbols(
    tiny_codec: ImageCodec, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    onnx = ImageCodec(tiny_weights, engine="onnx", threads=2)
    roi = np.ones((150, 200))
    roi[40:100, 30:90] = 10
    for picture in (photograph(150, 200), photograph(150, 200, 5)):
        for writer, reader in ((tiny_codec, onnx), (onnx, tiny_codec)):
            data = writer.encode(picture, quality=70, roi=roi).data
            a, b = writer.parse(data), reader.parse(data)
            assert not a.damage
            assert not b.damage
            np.testing.assert_array_equal(a.z, b.z)
            np.testing.assert_array_equal(a.symbols, b.symbols)
            shown = writer.decode(data).rgb.astype(int) - reader.decode(data).rgb
            assert np.abs(shown).max() <= 1
            assert (shown != 0).mean() < 1e-3


def test_another_process_with_other_threads_and_layout_parses_the_same(
    tiny_codec: ImageCodec, tiny_weights: Path, tmp_path: Path
):
    data = tiny_codec.encode(photograph(150, 200), quality=80).data
    (tmp_path / "frame.vtc").write_bytes(data)
    script = (
        "import sys, hashlib, torch; from bevstack.codec.codec import ImageCodec\n"
        "torch.backends.mkldnn.enabled = False\n"
        "c = ImageCodec(sys.argv[1], threads=3); p = c.parse(open(sys.argv[2], 'rb').read())\n"
        "print(hashlib.sha256(p.z.tobytes() + p.symbols.tobytes()).hexdigest(), len(p.damage))\n"
    )
    command = [sys.executable, "-c", script, str(tiny_weights), str(tmp_path / "frame.vtc")]
    out = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    )
    import hashlib

    parsed = tiny_codec.parse(data)
    assert out.stdout.split() == [hashlib.sha256(parsed.z.tobytes() + parsed.symbols.tobytes()).hexdigest(), "0"]


def test_offsets_follow_the_logarithm_of_the_weight():
    rate = CODECS["codec-nano"].rate
    roi = np.ones((100, 130))
    roi[0, 0] = rate.lambda_max / rate.lambda_min
    offsets = offsets_from_weights(roi, rate)
    assert offsets.shape == (2, 3)
    assert offsets[0, 0] == 63
    assert not offsets.reshape(-1)[1:].any()


def test_levels_come_from_integers_and_stay_in_range():
    rate = CODECS["codec-nano"].rate
    plane = RatePlane(30 + 128 / 256, np.array([[-63, 0, 63]], np.int8), rate)
    assert plane.levels(1, 3).tolist() == [[0, 31, 63]]


def test_one_pass_and_no_means_work_too(tmp_path: Path):
    picture = photograph(80, 100)
    for kind, layers in (("none", 1), ("hyper", 1)):
        config = tiny_config(mean=MeanConfig(kind=kind, features=16, hidden=24, context=8))
        save_weights(tmp_path / f"codec-{kind}.safetensors", make_net(config))
        codec = ImageCodec(tmp_path / f"codec-{kind}.safetensors")
        data = codec.encode(picture, quality=70).data
        assert len(bitstream.read(data).layers) == layers
        assert psnr(codec.decode(data).rgb, picture) > 26


def test_empty_channels_are_left_out(tiny_codec: ImageCodec):
    flat = np.full((512, 512, 3), 90, np.uint8)
    data = tiny_codec.encode(flat, quality=100).data
    header = bitstream.read(data).header
    assert tiny_codec.machine is None or header.channels is None
    if header.channels is not None:
        assert 0 < header.channels.sum() < 48
    assert not tiny_codec.decode(data).report


def test_weights_survive_saving_and_damage_is_noticed(tiny_weights: Path, tmp_path: Path):
    info = read_info(tiny_weights)
    assert info.config == tiny_config(quantiser=info.config.quantiser)
    assert len(info.model_id) == 8
    assert info.card == {"what": "test"}
    again = save_weights(tmp_path / "again.safetensors", load_weights(tiny_weights), info.card)
    assert again.model_id == info.model_id
    assert again.self_test == info.self_test
    content = bytearray(tiny_weights.read_bytes())
    content[-10] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="hash"):
        load_arrays(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="no weights"):
        ImageCodec("codec-unheard-of")


def test_self_test_refuses_an_engine_that_is_not_exact(tiny_codec: ImageCodec):
    with pytest.raises(EngineError, match="not exact"):
        tiny_codec.networks.self_test(tiny_codec.config, "0" * 64)


def test_configs_round_trip_and_bad_ones_are_refused():
    for config in CODECS.values():
        assert CodecConfig.from_json(config.to_json()) == config
    with pytest.raises(CheckpointError):
        CodecConfig.from_json('{"name": "x", "surprise": 1}')
    with pytest.raises(CheckpointError, match="unknown part"):
        make_net(dataclasses.replace(tiny_config(), mean=MeanConfig(kind="crystal ball")))
