"""The simulated drive: determinism, time, truth against pictures, motion, options."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from bevstack.errors import SourceError
from bevstack.frames.sim import MIN_VISIBLE_PIXELS, STYLES, TRUTH_RANGE, SimulatedDrive, nuscenes_rig
from bevstack.geometry import DETECTION_CLASSES, Boxes3D, invert, transform_points, yaw_of

Make = Callable[..., SimulatedDrive]


def test_same_seed_same_bytes(make_drive: Make) -> None:
    first = make_drive(1, "downtown")
    again = SimulatedDrive(1, style="downtown", image_width=400, duration=6.0, rate=2.0)
    a, b = first.instant(1.5), again.instant(1.5)
    assert a.stamp == b.stamp
    for name in first.cameras:
        assert np.array_equal(a.frames[name].image, b.frames[name].image)
        assert a.frames[name].stamp == b.frames[name].stamp
    assert a.truth is not None
    assert b.truth is not None
    assert np.array_equal(a.truth.center, b.truth.center)
    assert np.array_equal(a.truth.id, b.truth.id)


def test_random_access_equals_iteration_and_frames_are_in_stamp_order() -> None:
    drive = SimulatedDrive(2, image_width=160, duration=1.0, rate=4.0, jpeg=True)
    sets = list(drive)
    assert len(sets) == drive.count == 4
    assert list(sets[0].frames) == list(drive.cameras)
    late = drive.instant(0.75)
    assert all(late.frames[n].encoded == sets[3].frames[n].encoded for n in drive.cameras)
    frames = list(drive.frames())
    stamps = [f.stamp for f in frames]
    assert stamps == sorted(stamps)
    assert len(frames) == 24
    by_key = {(f.camera.name, f.stamp): f.encoded for f in frames}
    assert all(by_key[n, f.stamp] == f.encoded for s in sets for n, f in s.frames.items())
    picture = cv2.imdecode(np.frombuffer(frames[0].encoded or b"", np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (90, 160, 3)


def test_another_seed_gives_another_world(make_drive: Make) -> None:
    a, b = make_drive(1, "downtown").instant(0.0), make_drive(5, "downtown").instant(0.0)
    assert not np.array_equal(a.frames["cam_front"].image, b.frames["cam_front"].image)


def test_stagger_is_at_most_45_ms_and_poses_are_those_of_the_stamps(make_drive: Make) -> None:
    drive = make_drive(1, "downtown")
    instant = drive.instant(2.0)
    stamps = np.array([f.stamp for f in instant.frames.values()])
    assert instant.frames["cam_front"].stamp == instant.stamp == drive.start_stamp + 2_000_000_000
    assert 20e6 < np.ptp(stamps) <= 45e6
    for frame in instant.frames.values():
        assert frame.T_world_ego is not None
        np.testing.assert_allclose(frame.T_world_ego, drive.ego_pose(frame.stamp), atol=1e-12)
    still = SimulatedDrive(1, style="downtown", image_width=64, duration=1.0, stagger=False)
    assert len({f.stamp for f in still.instant(0.5).frames.values()}) == 1


@pytest.mark.parametrize(("seed", "style"), [(1, "downtown"), (3, "suburb")])
def test_true_boxes_enclose_the_pixels_of_their_objects(make_drive: Make, seed: int, style: str) -> None:
    drive = make_drive(seed, style)
    checked = 0
    overlaps = []
    for t in (0.5, 3.0, 5.5):
        truth = drive.truth(t)
        for camera in drive.cameras.values():
            mask = drive.object_mask(t, camera)
            corners = truth.corners()
            for i in range(len(truth)):
                pixels, depth = camera.project(corners[i])
                rows, columns = np.nonzero(mask == truth.id[i])
                if depth.min() < 0.5 or len(rows) < 30:
                    continue
                low, high = pixels.min(axis=0), pixels.max(axis=0)
                # Every pixel lies inside the projected box (half a pixel of rasterisation).
                assert columns.min() >= low[0] - 0.51, DETECTION_CLASSES[truth.label[i]]
                assert columns.max() <= high[0] + 0.51, DETECTION_CLASSES[truth.label[i]]
                assert rows.min() >= low[1] - 0.51, DETECTION_CLASSES[truth.label[i]]
                assert rows.max() <= high[1] + 0.51, DETECTION_CLASSES[truth.label[i]]
                seen = (columns.max() - columns.min() + 1) * (rows.max() - rows.min() + 1)
                inside = np.prod(np.minimum(high, (camera.width - 1, camera.height - 1)) - np.maximum(low, 0) + 1)
                overlaps.append(seen / inside)
                checked += 1
    assert checked > 40
    assert np.median(overlaps) > 0.7  # and mostly fill it: the rest is hidden by something


def test_truth_holds_exactly_what_is_near_and_seen(make_drive: Make) -> None:
    drive = make_drive(1, "downtown")
    boxes, pixels = drive.truth_with_visibility(2.0)
    assert len(boxes) == len(pixels) > 10
    assert pixels.min() >= MIN_VISIBLE_PIXELS
    assert np.hypot(boxes.center[:, 0], boxes.center[:, 1]).max() <= TRUTH_RANGE
    assert len(set(boxes.id.tolist())) == len(boxes)
    # Independent count at full resolution: what is clearly seen is in the truth, what is not seen at all is not.
    counts: dict[int, int] = {}
    for camera in nuscenes_rig(1600).values():
        ids, number = np.unique(drive.object_mask(2.0, camera), return_counts=True)
        for k, n in zip(ids.tolist(), number.tolist()):
            counts[k] = counts.get(k, 0) + n
    assert all(counts.get(k, 0) > 0 for k in boxes.id.tolist())
    world, ego = drive.world, drive.ego_pose(drive.stamp(2.0))
    states, _ = world.item_states(2.1)
    place = transform_points(invert(ego), np.column_stack([states[:, :2], np.zeros(len(states))]))
    near = {k for k in counts if k >= 0 and np.hypot(*place[k, :2]) < TRUTH_RANGE}
    missing = {k for k in near if counts[k] > 3 * MIN_VISIBLE_PIXELS} - set(boxes.id.tolist())
    for k in missing:  # only what is mostly hidden: few pixels for the size of its projected box
        box = Boxes3D(place[k] + (0, 0, world.size[k, 2] / 2), world.size[k], states[k, 2] - yaw_of(ego))
        outline = 0.0
        for camera in nuscenes_rig(1600).values():
            pixels, depth = camera.project(box.corners()[0])
            if depth.min() > 0.5:
                inside = np.clip(pixels, (0, 0), (camera.width, camera.height)).astype(np.float32)
                outline += cv2.contourArea(cv2.convexHull(inside))
        assert counts[k] < 0.25 * outline, DETECTION_CLASSES[world.label[k]]


def test_velocity_is_the_derivative_of_position(make_drive: Make) -> None:
    drive = make_drive(1, "downtown")
    h = 1e-3
    moving = 0
    for t in (0.7, 2.03, 4.4):
        before, at, after = drive.truth(t - h), drive.truth(t), drive.truth(t + h)
        poses = [drive.ego_pose(drive.stamp(v)) for v in (t - h, t, t + h)]
        where = [dict(zip(b.id.tolist(), transform_points(T, b.center))) for b, T in zip((before, at, after), poses)]
        turn = yaw_of(poses[1])
        c, s = np.cos(turn), np.sin(turn)
        for i, k in enumerate(at.id.tolist()):
            if k not in where[0] or k not in where[2]:
                continue
            world = (where[2][k] - where[0][k])[:2] / (2 * h)
            ego = np.array([c * world[0] + s * world[1], -s * world[0] + c * world[1]])
            np.testing.assert_allclose(at.velocity[i], ego, atol=0.02)
            speed = np.hypot(*ego)
            if speed > 2.0:
                moving += 1
                heading = np.arctan2(ego[1], ego[0])
                assert abs(np.angle(np.exp(1j * (heading - at.yaw[i])))) < 0.1
    assert moving > 3


def test_ids_are_stable_and_sizes_do_not_change(make_drive: Make) -> None:
    drive = make_drive(3, "suburb")
    a, b = drive.truth(1.0), drive.truth(1.5)
    common = np.intersect1d(a.id, b.id)
    assert len(common) > 0.5 * len(a)
    ia, ib = [np.array([int(np.nonzero(x.id == k)[0][0]) for k in common]) for x in (a, b)]
    assert np.array_equal(a.size[ia], b.size[ib])
    assert np.array_equal(a.label[ia], b.label[ib])


def test_direct_small_render_looks_like_a_downscaled_large_one() -> None:
    drive = SimulatedDrive(3, style="suburb", image_width=1600, duration=1.0, noise=False)
    name = "cam_front"
    large = drive.render_instant(0.4, {name: drive.cameras[name]})[name]
    small_camera = drive.cameras[name].resized(400, 225).cropped(24, 60, 352, 128)
    small = drive.render_instant(0.4, {name: small_camera})[name]
    reference = cv2.resize(large, (400, 225), interpolation=cv2.INTER_AREA)[60:188, 24:376]
    difference = np.abs(small.astype(float) - reference)
    assert difference.mean() < 4.0
    shifted = np.abs(np.roll(small, 2, axis=1).astype(float) - reference)
    assert difference.mean() < 0.6 * shifted.mean()  # aligned to better than two pixels


def test_cameras_that_are_rolled_or_pitched_are_drawn_right(make_drive: Make) -> None:
    """A rolled camera must show what the level one shows, turned."""
    drive = make_drive(3, "suburb")
    camera = drive.cameras["cam_front"]
    level = drive.render_instant(1.0, {"x": replace(camera, name="x")}, noise=False)["x"]
    a = np.deg2rad(7.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    rolled_camera = replace(camera, name="x", T_ego_camera=camera.T_ego_camera @ turn)
    rolled = drive.render_instant(1.0, {"x": rolled_camera}, noise=False)["x"]
    # Pixel p of the level image appears at K R^T K^-1 p of the rolled one.
    H = camera.K @ turn[:3, :3].T @ np.linalg.inv(camera.K)
    expected = cv2.warpPerspective(level, H, (camera.width, camera.height))
    inner = (slice(60, -60), slice(60, -60))
    assert np.abs(expected[inner].astype(float) - rolled[inner]).mean() < 5.0
    assert np.abs(level[inner].astype(float) - rolled[inner]).mean() > 8.0


@pytest.mark.parametrize(
    ("model", "distortion"), [("pinhole", (-0.25, 0.06, 0.001, -0.001, 0.0)), ("fisheye", (0.02, -0.004, 0.0, 0.0))]
)
def test_a_distorting_lens_moves_objects_to_where_the_camera_model_projects_them(
    make_drive: Make, model: str, distortion: tuple[float, ...]
) -> None:
    plain = make_drive(3, "suburb")
    camera = replace(plain.cameras["cam_front"], distortion=np.array(distortion), model=model)
    straight = plain.render_instant(1.0, {"cam_front": plain.cameras["cam_front"]}, noise=False)["cam_front"]
    bent = plain.render_instant(1.0, {"cam_front": camera}, noise=False)["cam_front"]
    v, u = np.mgrid[40:185:12, 60:340:12]
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(camera.K).T
    target, _ = camera.project_camera(rays)
    inside = (target > 2).all(axis=1) & (target[:, 0] < 397) & (target[:, 1] < 222)
    a = straight[v.ravel(), u.ravel()].astype(float)[inside]
    nearest = np.round(target[inside]).astype(int)
    b = bent[nearest[:, 1], nearest[:, 0]].astype(float)
    unmoved = bent[v.ravel(), u.ravel()].astype(float)[inside]
    assert np.abs(a - b).mean() < 0.6 * np.abs(a - unmoved).mean()


def test_night_is_darker_than_dusk_and_day() -> None:
    light = {}
    for style in ("old-town", "dusk", "night-town"):
        drive = SimulatedDrive(4, style=style, image_width=128, duration=0.5)
        light[style] = np.mean([im.mean() for im in drive.render_instant(0.2).values()])
    assert light["night-town"] < 0.6 * light["dusk"]
    assert light["dusk"] < 1.05 * light["old-town"]


def test_there_are_styles_and_the_seed_draws_them() -> None:
    assert len(STYLES) >= 8
    assert {s.light for s in STYLES.values()} == {"day", "dusk", "night"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"rate": 0.0}, "rate"),
        ({"duration": -2.0}, "duration"),
        ({"image_width": 10}, "image_width"),
        ({"style": "moon"}, "moon"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"cameras": {}}, "rig"),
        ({"density": 99.0}, "density"),
        ({"class_weights": {"tram": 1.0}}, "tram"),
    ],
)
def test_bad_options_are_named_in_one_line(options: dict[str, object], word: str) -> None:
    with pytest.raises(SourceError, match=word) as caught:
        SimulatedDrive(**{"seed": 1, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_instants_outside_the_drive_are_refused(make_drive: Make) -> None:
    drive = make_drive(1, "downtown")
    for ask in (drive.instant, drive.truth, drive.render_instant):
        for t in (7.0, -1.0):
            with pytest.raises(SourceError, match="lasts"):
                ask(t)


def test_calls_from_two_threads_give_the_same_pictures(make_drive: Make) -> None:
    drive = make_drive(1, "downtown")
    times = [0.2 * k for k in range(8)]
    alone = [(drive.render_instant(t), drive.truth(t).id.tolist()) for t in times]
    with ThreadPoolExecutor(3) as pool:
        pictures = [pool.submit(drive.render_instant, t) for t in times]
        truths = [pool.submit(drive.truth, t) for t in times]
    for (images, ids), picture, truth in zip(alone, pictures, truths):
        assert truth.result().id.tolist() == ids
        assert all(np.array_equal(images[n], picture.result()[n]) for n in images)


def test_closing_ends_the_iteration() -> None:
    with SimulatedDrive(2, image_width=64, duration=2.0) as drive:
        stream = iter(drive)
        next(stream)
        drive.close()
        assert list(stream) == []


def test_own_rig_with_one_camera() -> None:
    own = replace(nuscenes_rig(320)["cam_back"], name="rear")
    drive = SimulatedDrive(2, cameras={"rear": own}, duration=1.0)
    instant = drive.instant(0.5)
    assert list(instant.frames) == ["rear"]
    assert instant.stamp == instant.frames["rear"].stamp
    assert instant.truth is not None
    assert (instant.truth.center[:, 0] < 5).all()  # nothing in front is seen
