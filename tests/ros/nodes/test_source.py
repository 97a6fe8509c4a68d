"""Live topics as a source: discovery, calibration, poses, instants, and what is said when something is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from bench import CAMERAS, PERIOD, Bench, a_camera, jpeg

from bevstack.errors import SourceError
from bevstack.frames.source import Source, open_source
from bevstack.frames.types import FrameSet
from bevstack.geometry import pose
from bevstack.ros import convert
from bevstack.ros.interfaces import CompressedImage
from bevstack.ros.source import TopicSource


class Cameras:
    """Publishes instants of the small rig, moving 1 m each, until told to stop."""

    def __init__(self, bench: Bench, names: tuple[str, ...] = CAMERAS, broken: str = "") -> None:
        self.bench, self.names, self.broken = bench, names, broken
        self.count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            self.count += 1
            stamp = self.count * PERIOD
            T = pose(np.eye(3), (float(self.count), 0.0, 0.0))
            self.bench.tf.sendTransform(convert.transform_from_pose(T, stamp, "odom", "base_link"))
            for name in self.names:
                self.bench.calibrate(name, stamp)
                self.bench.image(name, stamp, jpeg(32, 18) if name == self.broken else None)

    def __enter__(self) -> Cameras:
        self.bench.mount(*self.names)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.fixture
def cameras(bench: Bench) -> Iterator[Callable[..., Cameras]]:
    bench.start()
    made: list[Cameras] = []

    def make(*arguments: object, **options: object) -> Cameras:
        made.append(Cameras(bench, *arguments, **options).__enter__())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


def take(source: Source, count: int) -> list[FrameSet]:
    return [instant for _, instant in zip(range(count), source)]


def test_whatever_publishes_is_found(cameras: Callable[..., Cameras]) -> None:
    cameras()
    with open_source("ros:timeout=20") as source:
        assert isinstance(source, TopicSource)
        assert list(source.cameras) == sorted(CAMERAS)
        assert source.transports == dict.fromkeys(sorted(CAMERAS), "compressed")
        np.testing.assert_allclose(source.cameras["right"].T_ego_camera, a_camera("right").T_ego_camera, atol=1e-9)
        np.testing.assert_allclose(source.cameras["left"].K, a_camera("left").K)
        instants = take(source, 3)
    for instant in instants:
        assert set(instant.frames) == set(CAMERAS)
        assert {frame.stamp for frame in instant.frames.values()} == {instant.stamp}
        posed = [frame.T_world_ego for frame in instant.frames.values() if frame.T_world_ego is not None]
        assert posed
        for T in posed:  # the pose is that of the stamp, not the newest
            assert T[0, 3] == pytest.approx(instant.stamp / PERIOD, abs=1e-6)
    assert instants[0].stamp < instants[1].stamp < instants[2].stamp


def test_a_sourced_instant_goes_into_the_network(cameras: Callable[..., Cameras]) -> None:
    pytest.importorskip("torch")
    from bevstack.bev import CONFIGS, FastBEV

    cameras()
    model = FastBEV(CONFIGS["fastbev-micro"], "torch", threads=1, cameras=sorted(CAMERAS))
    with open_source("ros:timeout=20") as source:
        assert model(take(source, 1)[0]).center.shape[1] == 3


def test_chosen_cameras_and_options(cameras: Callable[..., Cameras]) -> None:
    cameras()
    with open_source("ros:timeout=20,sync=anchor", cameras={"right": {}, "left": {}}, anchor="left", tolerance=0.01) as source:
        assert list(source.cameras) == ["left", "right"]
        assert set(take(source, 1)[0].frames) == {"left", "right"}


def test_frames_of_another_size_are_counted_and_named(cameras: Callable[..., Cameras]) -> None:
    cameras(broken="middle")
    with TopicSource(timeout=20.0) as source:
        seen = {frame.camera.name for _, frame in zip(range(8), source.frames())}
        assert seen == {"left", "right"}
        assert source.drops["middle"] > 0
        assert any("middle: it sends 32x18 pixels, its camera_info is for 64x36" in line for line in source.problems)


def test_close_ends_a_waiting_loop(cameras: Callable[..., Cameras]) -> None:
    cameras()
    with TopicSource(timeout=20.0) as source:
        thread = threading.Thread(target=lambda: list(source), daemon=True)
        thread.start()
        source.close()
        thread.join(20)
        assert not thread.is_alive()


def test_silence_is_an_error_not_a_hang(cameras: Callable[..., Cameras]) -> None:
    publishing = cameras()
    with TopicSource(timeout=2.0) as source:
        publishing.__exit__()
        with pytest.raises(SourceError, match=r"no image of left, middle, right for 2 s"):
            list(source)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ros:timeout=0.3", r"no camera publishes on /\{camera\}/image_raw\[/compressed\] in domain \d+: start the cameras"),
        ("ros:timeout=0.3,namespace=/car,transport=raw", r"no camera publishes on /car/\{camera\}/image_raw in domain"),
        ("ros:transport=carrier_pigeon", "transport is 'carrier_pigeon': use auto, compressed or raw"),
        ("ros:timeout=0", "both must be more than 0"),
        ("ros:altitude=3", "option 'altitude' is unknown: use cameras, image_topic_template"),
        ("ros:depth=many", "depth is 'many'; it takes a whole number"),
    ],
)
def test_what_cannot_be_opened(ros: None, spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(spec)


def test_a_camera_without_calibration_is_named(bench: Bench) -> None:
    bench.start()
    bench.publisher(CompressedImage, "left/image_raw/compressed")
    with pytest.raises(SourceError, match=r"left cannot be used after 1\.5 s: no camera_info of left has arrived"):
        TopicSource(timeout=1.5)
    bench.calibrate("left")
