"""Order on the wire, tiles, masks, quantising: against plain loops and the second decoder."""

from __future__ import annotations

import numpy as np
import pytest

from bevstack.codec import latents
from bevstack.codec.tables import CdfTables, scale_levels
from bevstack.codec.tiles import TileGrid

from . import independent_decoder

FAMILY = CdfTables.gaussian(scale_levels(16, "0.11", "20"), skip_below=3)
PLAIN_TABLES = [([int(v) for v in FAMILY.row(t)], int(FAMILY.offsets[t])) for t in range(len(FAMILY))]


def picture(width: int, height: int, tile: int, channels: int = 5, seed: int = 0):
    grid = TileGrid(width, height, tile)
    rng = np.random.default_rng(seed)
    shape = (channels, *grid.latent_shape)
    tables = rng.integers(0, 16, shape).astype(np.uint8)
    symbols = np.where(tables < 3, 0, np.rint(rng.normal(size=shape) * 4)).astype(np.int32)
    return grid, symbols, tables


@pytest.mark.parametrize(("width", "height", "tile"), [(1, 1, 0), (200, 120, 0), (200, 120, 1), (530, 130, 2), (64, 300, 1)])
def test_grid_covers_everything_once(width: int, height: int, tile: int) -> None:
    grid = TileGrid(width, height, tile)
    seen = np.zeros(grid.latent_shape, int)
    pixels = np.zeros((height, width), int)
    windows = grid.windows()
    assert len(windows) == len(grid) == grid.rows * grid.columns
    for number, (y0, y1, x0, x1) in enumerate(windows):
        seen[y0:y1, x0:x1] += 1
        pixels[grid.pixels(number)] += 1
    assert (seen == 1).all()
    assert (pixels == 1).all()
    with pytest.raises(IndexError):
        grid.pixels(len(grid))


@pytest.mark.parametrize("tile", [0, 1, 2])
@pytest.mark.parametrize(("passes", "layers"), [(1, 1), (2, 1), (2, 2)])
def test_round_trip(tile: int, passes: int, layers: int) -> None:
    grid, symbols, tables = picture(300, 210, tile)
    segments = latents.encode_latent(symbols, tables, grid, FAMILY, passes=passes, layers=layers)
    assert [len(layer) for layer in segments] == [len(grid)] * layers
    decoded, problems = latents.decode_latent(list(map(list, segments)), tables, grid, FAMILY, passes=passes)
    assert np.array_equal(decoded, symbols)
    assert problems == [[None] * len(grid)] * layers


def test_order_is_that_of_the_page() -> None:
    grid, symbols, tables = picture(300, 210, 2)
    mask = np.array([True, False, True, True, True])
    symbols[1] = 0
    segments = latents.encode_latent(symbols, tables, grid, FAMILY, mask)[0]
    frame = {"width": 300, "height": 210, "tile_size": 2}
    for segment, window in zip(segments, independent_decoder.tile_windows(frame), strict=True):
        positions = [p for parity in (0, 1) for p in independent_decoder.tile_positions(window, [0, 2, 3, 4], parity)]
        decoded = independent_decoder.decode_segment(segment, [int(tables[p]) for p in positions], PLAIN_TABLES, 3)
        assert decoded == [int(symbols[p]) for p in positions]


def test_damage_stays_in_its_tile() -> None:
    grid, symbols, tables = picture(300, 210, 1)
    layers: list[list[bytes | None]] = [list(layer) for layer in latents.encode_latent(symbols, tables, grid, FAMILY, layers=2)]
    layers[0][3] = None
    layers[1][5] = bytes(layers[1][5] or b"")[:-2]
    decoded, problems = latents.decode_latent(layers, tables, grid, FAMILY)
    assert [(k, t) for k, layer in enumerate(problems) for t, p in enumerate(layer) if p] == [(0, 3), (1, 5)]
    parity = np.add.outer(np.arange(decoded.shape[1]), np.arange(decoded.shape[2])) % 2
    lost = np.zeros(decoded.shape[1:], bool)
    for layer, tile in ((0, 3), (1, 5)):
        y0, y1, x0, x1 = grid.windows()[tile]
        lost[y0:y1, x0:x1] |= parity[y0:y1, x0:x1] == layer
    assert not decoded[:, lost].any()
    assert np.array_equal(decoded[:, ~lost], symbols[:, ~lost])


def test_channel_mask_pays_or_is_left_out() -> None:
    grid, symbols, tables = picture(640, 480, 0, channels=16)
    symbols[5:] = 0
    mask = latents.channel_mask(symbols, tables, FAMILY)
    assert mask is not None
    assert list(mask) == [True] * 5 + [False] * 11
    masked = latents.encode_latent(symbols, tables, grid, FAMILY, mask)[0]
    assert len(masked[0]) < len(latents.encode_latent(symbols, tables, grid, FAMILY)[0][0])
    assert np.array_equal(latents.decode_latent([list(masked)], tables, grid, FAMILY, mask)[0], symbols)
    assert latents.channel_mask(symbols[:5], tables[:5], FAMILY) is None
    cheap = np.full_like(tables, 2)
    assert latents.channel_mask(symbols, cheap, FAMILY) is None


@pytest.mark.parametrize("uniform", [True, False])
def test_quantise_and_reconstruct(uniform: bool) -> None:
    """Two passes, the second's means made after the first: both ends hold the same latent, bit for bit."""
    rng = np.random.default_rng(0)
    shape = (4, 7, 9)
    gained = (rng.normal(size=shape) * 5).astype(np.float32)
    gained[0, 0, 0], gained[0, 0, 2], gained[0, 0, 4] = np.nan, 1e30, -np.inf
    gain = rng.uniform(0.5, 2, (4, 1, 1) if uniform else shape).astype(np.float32)
    inverse = (1 / gain).astype(np.float32)
    tables = rng.integers(0, 9, shape).astype(np.uint8)
    tables[0, 0] = 8
    mean = rng.normal(size=(4, 8, 12)).astype(np.float32)[:, :8, :11]  # larger than needed, not contiguous
    symbols, natural = np.full(shape, 99, np.int32), np.full(shape, 99, np.float32)
    latents.quantise(gained, gain, inverse, mean, tables, 3, symbols, natural, latents.ANCHORS)
    anchors = np.add.outer(np.arange(7), np.arange(9)) % 2 == 0
    assert not natural[:, ~anchors].any()
    context = natural.copy()
    later = np.pad(context, ((0, 0), (0, 1), (0, 2))) + np.float32(0.25)
    latents.quantise(gained, gain, inverse, later, tables, 3, symbols, natural, latents.OTHERS)
    middle = np.where(anchors, mean[:, :7, :9], later[:, :7, :9]) * gain
    with np.errstate(invalid="ignore"):
        wanted = np.clip(np.floor(gained - middle + np.float32(0.5)), -32768, 32767)
    wanted = np.where((tables < 3) | np.isnan(wanted), 0, wanted).astype(np.int32)
    assert np.array_equal(symbols, wanted)
    assert np.array_equal(natural, (wanted.astype(np.float32) + middle) * inverse)

    again = np.full(shape, 7, np.float32)
    latents.reconstruct(symbols, gain, inverse, mean, again, latents.ANCHORS)
    assert np.array_equal(again, context)
    latents.reconstruct(symbols, gain, inverse, later, again, latents.OTHERS)
    assert np.array_equal(again, natural)

    latents.quantise(gained, gain, inverse, mean, tables, 3, symbols, natural)
    latents.reconstruct(symbols, gain, inverse, mean, again)
    assert np.array_equal(again, natural)


def test_caller_errors() -> None:
    grid, symbols, tables = picture(100, 100, 1)
    for call in (
        lambda: latents.encode_latent(symbols[:, 1:], tables, grid, FAMILY),
        lambda: latents.encode_latent(symbols, tables[:, 1:], grid, FAMILY),
        lambda: latents.encode_latent(symbols, tables.astype(np.int32), grid, FAMILY),
        lambda: latents.encode_latent(symbols, tables, grid, FAMILY, np.ones(3, bool)),
        lambda: latents.encode_latent(symbols, tables, grid, FAMILY, passes=3),
        lambda: latents.encode_latent(symbols, tables, grid, FAMILY, passes=1, layers=2),
        lambda: latents.decode_latent([[b""]], tables, grid, FAMILY),
        lambda: latents.encode_latent(symbols, tables + np.uint8(16), grid, FAMILY),
        lambda: latents.reconstruct(symbols, *[np.ones((5, 2, 1), np.float32)] * 2, symbols, symbols),
        lambda: latents.reconstruct(symbols, *[np.ones((5, 1, 1), np.float32)] * 2, symbols[:, 1:], symbols),
    ):
        with pytest.raises(ValueError):
            call()


def test_any_bytes_end_in_symbols_or_a_report() -> None:
    grid, symbols, tables = picture(300, 210, 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        noise = [rng.bytes(int(rng.integers(0, 60))) for _ in range(len(grid))]
        decoded, problems = latents.decode_latent([list(noise)], tables, grid, FAMILY)
        assert decoded.shape == symbols.shape
        assert sum(p is not None for p in problems[0]) >= len(grid) - 1
