"""Decoding: colours, sizes, damaged bytes, and the worker pool."""

from __future__ import annotations

import io
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from bevstack.errors import BevstackError, SourceError
from bevstack.frames.decode import DecodeError, DecodeFailure, DecodePool, decode, decode_frame, image_size, resize
from bevstack.frames.types import Frame
from bevstack.geometry import Camera


def scene(width: int = 320, height: int = 180) -> np.ndarray:
    """A smooth coloured picture with a few hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 17)], axis=2).astype(np.uint8)
    cv2.rectangle(image, (width // 4, height // 4), (width // 2, height // 2), (250, 40, 30), -1)
    return image


def jpeg(image: np.ndarray, quality: int = 95, **options: object) -> bytes:
    buffer = io.BytesIO()
    pil.fromarray(image).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pil.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2))))


def frame(name: str = "cam_front", stamp: int = 0, encoded: bytes | None = None, size: tuple[int, int] = (320, 180)) -> Frame:
    return Frame(
        Camera(name, *size, np.diag([200.0, 200.0, 1.0]), np.eye(4)),
        stamp,
        encoded=jpeg(scene()) if encoded is None else encoded,
    )


def test_png_is_exact_and_rgb() -> None:
    assert np.array_equal(decode(png(scene())), scene())


def test_jpeg_is_rgb_and_close() -> None:
    image = decode(jpeg(scene(), 95))
    assert image.shape == (180, 320, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert psnr(image, scene()) > 33


def test_grey_and_progressive_jpegs_work() -> None:
    grey = decode(jpeg(scene()[..., 0]))
    assert grey.shape == (180, 320, 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert psnr(decode(jpeg(scene(), progressive=True)), scene()) > 33


@pytest.mark.parametrize("size", [(320, 180), (160, 90), (141, 79), (100, 99), (64, 36), (21, 7), (500, 300)])
@pytest.mark.parametrize("filter", ["area", "bicubic"])
def test_every_size_is_met_and_close_to_a_full_decode(size: tuple[int, int], filter: str) -> None:
    encoded = jpeg(scene(), 95)
    image = decode(encoded, size, filter)  # type: ignore[arg-type]
    assert image.shape == (size[1], size[0], 3)
    full = decode(encoded)
    if filter == "bicubic":
        assert np.array_equal(image, np.asarray(pil.fromarray(full).resize(size, pil.Resampling.BICUBIC)))
    else:
        assert psnr(image, resize(full, size)) > 32


def test_not_exact_leaves_the_last_resize_out() -> None:
    image = decode(jpeg(scene()), (141, 79), exact=False)
    assert image.shape == (90, 160, 3)  # 4/8 of 320 x 180


def test_real_image_decoded_in_the_dct_domain_is_close_to_the_full_way(shared: object) -> None:
    path = next(iter(sorted((shared / "data/nuscenes/scene0061_sample").glob("*CAM_FRONT__*.jpg"))))  # type: ignore[operator]
    encoded = path.read_bytes()
    assert image_size(encoded) == (1600, 900)
    fast = decode(encoded, (704, 396))
    assert psnr(fast, cv2.resize(decode(encoded), (704, 396), interpolation=cv2.INTER_AREA)) > 36


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 0.999))
def test_a_cut_jpeg_or_png_is_an_error_not_half_a_picture(fraction: float) -> None:
    for encoded in (jpeg(scene()), png(scene())):
        with pytest.raises(DecodeError) as caught:
            decode(encoded[: int(len(encoded) * fraction)])
        assert "\n" not in str(caught.value)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["jpeg", "png"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
def test_damaged_bytes_end_in_an_image_or_in_an_error(kind: str, where: int, noise: bytes) -> None:
    encoded = bytearray(jpeg(scene(64, 48)) if kind == "jpeg" else png(scene(64, 48)))
    start = where % len(encoded)
    encoded[start : start + len(noise)] = noise
    try:
        image = decode(bytes(encoded), (32, 24))
    except BevstackError:
        return
    assert image.shape == (24, 32, 3)


@settings(deadline=None)  # a magic of another room loads that room, once
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(noise)


def test_a_header_that_states_a_huge_image_allocates_nothing() -> None:
    encoded = bytearray(png(scene(16, 16)))
    encoded[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(DecodeError, match="60000x60000 pixels"):
        decode(bytes(encoded))


def test_another_size_than_the_calibrations_is_refused() -> None:
    with pytest.raises(DecodeError, match="sends 320x180 but its calibration is for 640x360"):
        decode_frame(frame(size=(640, 360)))


def test_frames_with_images_are_resized_only() -> None:
    done = decode_frame(Frame(frame().camera, 3, image=scene()), (100, 50))
    assert done.image is not None
    assert done.image.shape == (50, 100, 3)
    with pytest.raises(DecodeError, match="neither an image nor"):
        decode_frame(Frame(frame().camera, 3))


class Gate:
    """Holds the first result back until it is opened, so that what happens meanwhile is certain."""

    def __init__(self) -> None:
        self.results: list[Frame | DecodeFailure] = []
        self.first = threading.Event()
        self.open = threading.Event()
        self.last = threading.Semaphore(0)

    def __call__(self, result: Frame | DecodeFailure) -> None:
        self.results.append(result)
        self.first.set()
        assert self.open.wait(30)
        self.last.release()


def test_newest_wins_per_camera_and_drops_are_counted() -> None:
    gate = Gate()
    with DecodePool(1) as pool:
        pool.submit(frame(stamp=0), (32, 18), gate)
        assert gate.first.wait(30)
        for stamp in range(1, 6):
            pool.submit(frame(stamp=stamp), (32, 18), gate)
            pool.submit(frame("cam_back", stamp=10 + stamp), (32, 18), gate)
        gate.open.set()
        for _ in range(3):
            assert gate.last.acquire(timeout=30)
        counters = pool.counters
    assert sorted(result.stamp for result in gate.results) == [0, 5, 15]
    assert (counters["cam_front"].submitted, counters["cam_front"].decoded, counters["cam_front"].dropped) == (6, 2, 4)
    assert (counters["cam_back"].decoded, counters["cam_back"].dropped) == (1, 4)
    assert pool.drops == 8


def test_keeping_all_frames_keeps_their_order() -> None:
    gate = Gate()
    gate.open.set()
    with DecodePool(3, newest_wins=False) as pool:
        for stamp in range(20):
            pool.submit(frame(stamp=stamp), (32, 18), gate)
        for _ in range(20):
            assert gate.last.acquire(timeout=30)
    assert [result.stamp for result in gate.results] == list(range(20))


def test_one_cameras_frames_are_never_decoded_side_by_side() -> None:
    """While the first frame's receiver holds its worker, the two idle workers take another camera, not the next frame."""
    gate, other = Gate(), Gate()
    other.open.set()
    with DecodePool(3, newest_wins=False) as pool:
        for stamp in range(3):
            pool.submit(frame(stamp=stamp), (32, 18), gate)
        for stamp in range(4):
            pool.submit(frame("cam_back", stamp), (32, 18), other)
        for _ in range(4):
            assert other.last.acquire(timeout=30)
        assert [result.stamp for result in gate.results] == [0]
        gate.open.set()
        for _ in range(3):
            assert gate.last.acquire(timeout=30)
    assert [result.stamp for result in gate.results] == [0, 1, 2]


def test_a_receiver_that_raises_does_not_stop_the_camera(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gate.open.set()

    def broken(result: Frame | DecodeFailure) -> None:
        raise RuntimeError("bug")

    with DecodePool(1, newest_wins=False) as pool:
        pool.submit(frame(stamp=1), (32, 18), broken)
        pool.submit(frame(stamp=2), (32, 18), gate)
        assert gate.last.acquire(timeout=30)
    assert "the receiver of decoded frames of cam_front failed" in caplog.text


def test_a_bad_frame_is_handed_on_as_a_failure_and_the_worker_lives() -> None:
    gate = Gate()
    gate.open.set()
    with DecodePool(1, newest_wins=False) as pool:
        pool.submit(frame(stamp=7, encoded=jpeg(scene())[:900]), None, gate)
        pool.submit(frame(stamp=8), None, gate)
        assert gate.last.acquire(timeout=30)
        assert gate.last.acquire(timeout=30)
    failure, good = gate.results
    assert isinstance(failure, DecodeFailure)
    assert (failure.camera, failure.stamp) == ("cam_front", 7)
    assert "damaged" in failure.reason
    assert "\n" not in failure.reason
    assert isinstance(good, Frame)
    assert pool.counters["cam_front"].failed == 1


def test_decode_all_waits_for_all_and_keeps_the_order() -> None:
    frames = [frame(f"cam_{i}", i) for i in range(5)] + [frame("cam_0", 9, b"xx")]
    with DecodePool(2) as pool:
        results = pool.decode_all(frames, lambda camera: (64, 36))
    assert [result.stamp for result in results] == [0, 1, 2, 3, 4, 9]
    assert isinstance(results[5], DecodeFailure)
    assert all(isinstance(r, Frame) and r.image is not None and r.image.shape == (36, 64, 3) for r in results[:5])


def test_distorted_cameras_are_rectified_on_the_way() -> None:
    camera = Camera(
        "cam_front", 320, 180, np.array([[200.0, 0, 160], [0, 200, 90], [0, 0, 1]]), np.eye(4), np.array([-0.3, 0.1, 0, 0])
    )
    bent = Frame(camera, 0, encoded=jpeg(scene()))
    with DecodePool(1) as pool:
        (done,) = pool.decode_all([bent], lambda c: (160, 90))
    assert isinstance(done, Frame)
    assert done.rectified
    assert not done.camera.distorted
    assert done.image is not None
    assert done.image.shape == (90, 160, 3)
    with DecodePool(1, rectify=False) as pool:
        (plain,) = pool.decode_all([bent], lambda c: (160, 90))
    assert isinstance(plain, Frame)
    assert not plain.rectified


def test_close_is_clean_and_final() -> None:
    gate = Gate()
    pool = DecodePool(2)
    before = threading.active_count()
    pool.submit(frame(), None, gate)
    gate.open.set()
    pool.close(drain=True)
    assert len(gate.results) == 1
    assert threading.active_count() == before - 2
    pool.close()
    with pytest.raises(SourceError, match="after the decode pool was closed"):
        pool.submit(frame(), None, gate)


def test_kinds_of_other_rooms_are_found_when_their_pictures_come() -> None:
    """A program that reads a bag with learned streams imports ``frames`` alone; nothing is loaded for JPEGs."""
    program = """if True:
        import sys
        from bevstack.frames.decode import DecodeError, image_size
        from bevstack.frames import formats
        for data in (b"", b"\\xff\\xd8", b"VT"):
            try:
                image_size(data)
            except DecodeError:
                pass
        assert "bevstack.codec.picture" not in sys.modules
        assert formats.find(b"VTC1 and more").name == "learned stream"
        assert formats.find(b"none of all") is None
        try:
            image_size(b"VTC1 and more")
        except DecodeError as error:
            assert "coded frame" in str(error), error
        assert "bevstack.ros" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
