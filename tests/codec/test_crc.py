"""CRC-32C against its published check values and a bitwise twin; the sliding search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec.crc import crc32c, find_window

from . import independent_decoder


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these four: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, value: int) -> None:
    assert crc32c(data) == value


@given(st.binary(max_size=100))
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_bitwise_form(data: bytes) -> None:
    assert crc32c(memoryview(data)) == crc32c(bytearray(data)) == independent_decoder.crc32c(data)


def test_window_is_found_where_it_is() -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    for length, start in ((4, 0), (7, 1234), (8, 4992), (300, 4700), (5000, 0)):
        check = crc32c(data[start : start + length])
        assert find_window(data, length, check, 0, 10**6) == start
        assert find_window(data, length, check, start, start) == start
        assert find_window(data, length, check, start + 1, 10**6) is None
        assert find_window(data, length, check, 0, start - 1) is None
        assert find_window(data, length, check ^ 1, 0, 10**6) is None
    assert find_window(data, 0, 0, 0, 10) is None
    assert find_window(data, 5001, 0, 0, 10) is None
