"""How a run came about: options that survive JSON, what a continued run takes from its folder, parts as a card lists them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from bevstack.bev.config import FastBEVConfig
from bevstack.learn.codec.distill import DistillOptions
from bevstack.learn.codec.train import CodecTrainOptions
from bevstack.learn.detect.card import recipe
from bevstack.learn.detect.data import AugmentOptions, DataSpec
from bevstack.learn.detect.slim import SlimOptions as SlimDetectorOptions
from bevstack.learn.detect.train import TrainOptions as DetectorOptions
from bevstack.learn.history import command, continued, parts_section, plain, read_parts, restore, samples, trained_parts
from bevstack.learn.nuscenes.train import RecipeOptions
from bevstack.learn.run import Progress, RunFolder, TrainingError
from bevstack.learn.slim import SlimOptions
from bevstack.learn.train import TrainOptions

CHANGED: list[Any] = [
    TrainOptions(Path("r"), minutes=2.5, init=Path("a/b.st"), amp=True),
    SlimOptions(Path("r"), steps=3, widths=(0.5, 1.0)),
    DetectorOptions(
        Path("r"),
        (DataSpec(Path("a.json"), Path("pictures"), 0.3), DataSpec(Path("b.json"))),
        canvases=((256, 384), (384, 640)),
        augment=AugmentOptions(scale=(0.1, 0.2)),
        amp=False,
    ),
    SlimDetectorOptions(Path("r"), widths=(0.25, 1.0), canvases=((128, 128),)),
    CodecTrainOptions(Path("r"), (Path("a"), Path("b")), ("x*",), scales=(1.0, 0.3), betas=(0.8, 0.9)),
    DistillOptions(Path("r"), "mine.safetensors", (Path("a"),), steps=5),
    RecipeOptions(Path("r"), data=Path("nuscenes"), amp="fp16", version=None),
]


@pytest.mark.parametrize("options", CHANGED, ids=lambda o: type(o).__module__ + type(o).__name__)
def test_options_of_every_trainer_survive_json(options: Any) -> None:
    stored, hints = json.loads(json.dumps(plain(options))), get_type_hints(type(options))
    back = type(options)(**{name: restore(value, hints[name]) for name, value in stored.items()})
    assert back == options


@pytest.fixture
def begun(tiny: FastBEVConfig, tmp_path: Path) -> TrainOptions:
    """A run on ``tiny``, with a checkpoint."""
    options = TrainOptions(tmp_path / "run", config=tiny, minutes=90.0, batch=2, seed=7, init=Path("a.st"))
    with RunFolder(options.output, resume=False) as folder:
        folder.begin(options, tiny.to_json())
        folder.checkpoint.touch()
    return options


def test_what_was_not_asked_for_again_is_taken_from_the_folder(begun: TrainOptions, tmp_path: Path) -> None:
    plainly = TrainOptions(begun.output, resume=True)
    assert continued(plainly, {"output", "resume"}) == replace(begun, resume=True)
    moved = begun.output.rename(tmp_path / "moved")
    assert continued(replace(plainly, output=moved), ()) == replace(begun, output=moved, resume=True)


def test_what_is_asked_for_replaces_it_also_where_it_is_the_default(begun: TrainOptions) -> None:
    plainly = TrainOptions(begun.output, resume=True)
    assert continued(plainly, {"seed"}).seed == TrainOptions.seed
    assert continued(replace(plainly, learning_rate=0.5), {"learning_rate"}) == replace(begun, resume=True, learning_rate=0.5)
    other = continued(replace(plainly, steps=5), {"steps"})
    assert (other.steps, other.minutes) == (5, None)


def test_a_change_stays_until_the_next_one(begun: TrainOptions) -> None:
    plainly = TrainOptions(begun.output, resume=True)
    for given in ({"minutes": 120.0}, {"learning_rate": 0.5}):
        with RunFolder(begun.output, resume=True) as folder:
            options = continued(replace(plainly, **given), given)
            folder.begin(options, "", progress=Progress(5, 60.0))
    last = continued(plainly, ())
    assert (last.minutes, last.learning_rate, last.seed) == (120.0, 0.5, 7)
    assert [p.step for p in read_parts(begun.output)] == [0, 5, 5]


def test_the_network_is_the_runs_own(begun: TrainOptions, tiny: FastBEVConfig) -> None:
    plainly = TrainOptions(begun.output, resume=True)
    assert continued(plainly, {"model"}).network() == tiny, "the same name asked for again"
    for changed, given in ((replace(plainly, model="fastbev-m0"), {"model"}), (replace(plainly, config=None), {"config"})):
        options = continued(changed, given)
        assert options.config is None
        with RunFolder(begun.output, resume=True) as folder, pytest.raises(TrainingError, match="was begun with"):
            folder.check(options, options.network(), ("model",))


def test_other_folders_are_one_line(begun: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume: .*none/checkpoint\.pt does not exist"):
        continued(TrainOptions(tmp_path / "none"), ())
    with pytest.raises(TrainingError, match=r"holds the run of another trainer: its config\.json is no CodecConfig"):
        continued(CodecTrainOptions(begun.output), ())
    (begun.output / "options.json").write_text("{")
    with pytest.raises(TrainingError, match=r"options\.json cannot be read"):
        continued(TrainOptions(begun.output), ())
    (begun.output / "options.json").unlink()  # as in folders that only hold a checkpoint
    assert continued(TrainOptions(begun.output, steps=3), {"steps"}).steps == 3


@dataclass(frozen=True)
class Asked:
    output: Path
    batch: int = 4
    minutes: float | None = None
    steps: int | None = 100
    init: Path | None = None
    amp: bool = False
    data: tuple[DataSpec, ...] = ()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A run in three parts that count, and one that was stopped before its first checkpoint."""
    base = Asked(tmp_path)
    with RunFolder(tmp_path, resume=False) as folder:
        folder.begin(base, "{}")
        folder.checkpoint.touch()
    for step, options in (
        (100, replace(base, steps=1200, batch=8)),
        (100, replace(base, steps=2000, batch=2)),
        (1500, replace(base, steps=None, minutes=7.5, amp=True, data=(DataSpec(Path("/home/me/sets/a/coco.json")),))),
    ):
        with RunFolder(tmp_path, resume=True) as folder:
            folder.begin(options, "", {"processes": "3" if step > 100 else "1"}, Progress(step, 6.0 * step))
    return tmp_path


def test_parts_that_left_no_steps_do_not_count(history: Path) -> None:
    assert [(p.step, end, p.options["batch"]) for p, end in trained_parts(history, 1600)] == [
        (0, 100, 4),
        (100, 1500, 2),
        (1500, 1600, 4),
    ]
    assert [(p.step, end) for p, end in trained_parts(history, 1500)] == [(0, 100), (100, 1500)]
    assert [(p.step, end) for p, end in trained_parts(history, 60)] == [(0, 60)], "weights of an earlier checkpoint"
    assert samples(history, 1600) == 4 * 100 + 2 * 1400 + 3 * 4 * 100
    assert read_parts(history)[1].minutes == 10.0


def test_changed_options_are_typed_as_the_command_types_them(history: Path) -> None:
    third = parts_section(history, 1600, {"data": ("data", lambda spec: f"{Path(spec['file']).name}@{spec['weight']:g}")})[-1]
    assert "`--data coco.json@1`" in third


def test_a_card_lists_the_parts_and_what_was_changed_in_each(history: Path) -> None:
    lines = parts_section(history, 1600)
    first, second, third = lines[4:]
    assert first.startswith("| 1 to 100 | 20")
    assert "as above" in first
    assert "| 101 to 1,500 |" in second
    assert "`--batch 2`, `--steps 2000`" in second
    changes = [
        "--batch 4",
        "--minutes 7.5",
        "no --steps",
        "--amp",
        "--data file a/coco.json images None weight 1",
    ]
    assert ", ".join(f"`{c}`" for c in changes) in third
    assert "torch 2" in third
    assert "/home" not in "\n".join(lines)


def test_a_run_in_one_part_has_no_section(history: Path, tmp_path: Path) -> None:
    assert parts_section(history, 100) == []
    (history / "parts.json").unlink()
    assert parts_section(history, 5000) == [], "as in folders of older versions"


def test_a_command_names_what_is_no_default() -> None:
    defaults = plain(CodecTrainOptions(Path()))
    asked = plain(CodecTrainOptions(Path("r"), (Path("/a/b/c"), Path("d")), ("x*",), minutes=5.0, resume=True))
    assert command("codec", asked, defaults) == ("bevstack train codec RUN --images b/c --images d --exclude x* --minutes 5")


def test_a_command_is_one_that_the_command_line_knows() -> None:
    asked = DetectorOptions(
        Path("r"),
        (DataSpec(Path("/a/b/coco.json"), None, 0.25), DataSpec(Path("c.json"), Path("/x/y/z"))),
        minutes=85.0,
        canvases=((384, 640), (768, 1280)),
        amp=True,
    )
    assert recipe(plain(asked)) == (
        "bevstack train giraffedet RUN --data b/coco.json@0.25 --data y/z:c.json@1 --model giraffedet-nano --minutes 85 "
        "--size 640x384 --size 1280x768 --amp"
    )


def test_a_damaged_history_is_one_line(history: Path) -> None:
    (history / "parts.json").write_text('[{"step": 1}]')
    with pytest.raises(TrainingError, match=r"parts\.json is no history of a run"):
        read_parts(history)
