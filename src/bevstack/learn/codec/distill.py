"""Distillation of decoders: several decoders, one bitstream (brief codec-checkerboard-deform-kd, section 6).

Step 1 is an ordinary training run: the teacher. Step 2 trains a student decoder of the teacher's shape from the teacher's
pictures and features as well as from the originals. Step 3 takes blocks out of it, the least useful ones first, and trains on.
In steps 2 and 3 everything but the synthesis and its conditioning is frozen - analysis, hyper path, scale net, means, gains -
so that every student decodes the teacher's streams: the model id stays, the reconstruction id changes.

What is learned stands here, the training itself in ``bevstack.learn.codec.students``.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bevstack.codec.model import CodecNet, from_network, spread_plane, to_network
from bevstack.codec.rate import knot_weights, lagrange
from bevstack.learn.run import TrainingError


@dataclass(frozen=True)
class DistillOptions:
    """What a distillation is asked to do.

    Attributes:
        output: the run's folder; the students' weights files are written there, too.
        teacher: its weights, a name or a file.
        images: folders of photographs; ``exclude``: shell patterns of file names to leave out.
        steps: of step 2 and of step 3, each.
        blocks: residual blocks at 1/8 that the smallest student keeps.
        pictures: weight of the error against the teacher's picture; ``features``: of the error of the trunk's features. Both
            fade to 0 over the first nine tenths of a step's budget.
    """

    output: Path
    teacher: str = "codec-nano"
    images: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    steps: int = 1000
    blocks: int = 2
    batch: int = 8
    crop: int = 256
    learning_rate: float = 5e-4
    pictures: float = 0.5
    features: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    threads: int | None = None
    log_every: int = 20
    checkpoint_minutes: float = 3.0
    resume: bool = False


def fork(teacher: CodecNet) -> CodecNet:
    """A student: the teacher's twin, of which only the synthesis side learns."""
    student = copy.deepcopy(teacher)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(("synthesis.", "rate.scales.", "rate.shifts.")))
    return student


def without_block(net: CodecNet, number: int) -> CodecNet:
    """A twin without one trunk block of the synthesis; the conditioning in the middle moves to the new middle.

    Raises:
        TrainingError: no such block, or only one left.
    """
    trunk = net.synthesis.trunk
    assert isinstance(trunk, nn.ModuleList)
    if not 0 <= number < len(trunk) or len(trunk) < 2:
        raise TrainingError(f"block {number} cannot be taken out of a synthesis with {len(trunk)} blocks")
    transform = dataclasses.replace(net.config.transform, decoder_blocks=len(trunk) - 1)
    config = dataclasses.replace(net.config, transform=transform)
    small = CodecNet(config)
    state = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["synthesis", "trunk"]:
            if int(parts[2]) == number:
                continue
            parts[2] = str(int(parts[2]) - (int(parts[2]) > number))
        state[".".join(parts)] = value
    small.load_state_dict(state)
    return small.train(net.training)


@dataclass
class Lesson:
    """One batch as the teacher sees it: latent, conditioning weights, its picture and its features."""

    decoded: Tensor
    weights: Tensor
    pixels: Tensor
    stages: list[Tensor]


@torch.no_grad()
def lesson(teacher: CodecNet, pixels: Tensor, r: Tensor) -> Lesson:
    """Codes (N, 3, H, W) grey levels at rate points (N, 1, a, b) with the teacher."""
    teacher.eval()
    latent = teacher.analysis(to_network(pixels))
    decoded = teacher.code(latent, r, synthesise=False).decoded
    weights = knot_weights(r, teacher.config.rate)
    rows = spread_plane(weights, *latent.shape[-2:]) if weights.shape[-2:] != (1, 1) else weights
    stages = _stages(teacher, decoded, rows)
    return Lesson(decoded, rows, _picture(teacher, stages[-1]), stages)


def _stages(net: CodecNet, decoded: Tensor, rows: Tensor) -> list[Tensor]:
    ratio = 2 if rows.shape[-2:] != (1, 1) else 1
    result: list[Tensor] = net.synthesis.features(decoded, net.rate.conditioning(rows, ratio))  # type: ignore[operator]
    return result


def _picture(net: CodecNet, last: Tensor) -> Tensor:
    return from_network(F.pixel_shuffle(net.synthesis.patch(last), 8))  # type: ignore[operator]


def distillation_loss(
    student: CodecNet, given: Lesson, pixels: Tensor, r: Tensor, options: DistillOptions, fade: float
) -> Tensor:
    """lambda * [MSE(x, s) + a MSE(t, s)] + b sum of relative feature errors, with a and b times ``fade``."""
    stages = _stages(student, given.decoded, given.weights)
    picture = _picture(student, stages[-1])
    config = student.config.rate
    # Errors count by the root of lambda, as in training: all rates alike.
    scale = torch.tensor([math.sqrt(lagrange(float(v), config)) for v in r.mean((1, 2, 3))], dtype=picture.dtype)
    error = (scale * (picture - pixels).square().mean((1, 2, 3))).mean()
    error = error + fade * options.pictures * (scale * (picture - given.pixels).square().mean((1, 2, 3))).mean()
    # The student's k-th stage is held against the teacher's stage at the same share of the depth.
    for number, stage in enumerate(stages):
        twin = given.stages[round((number + 1) / len(stages) * len(given.stages)) - 1]
        size = twin.square().mean()
        error = error + fade * options.features * (stage - twin).square().mean() / size / len(stages)
    return error


def least_useful(student: CodecNet, given: Lesson, pixels: Tensor) -> int:
    """The trunk block whose absence costs least."""
    trunk = student.synthesis.trunk
    assert isinstance(trunk, nn.ModuleList)
    costs = []
    with torch.no_grad():
        for number in range(len(trunk)):
            small = without_block(student, number)
            picture = _picture(small, _stages(small, given.decoded, given.weights)[-1])
            costs.append(float((picture - pixels).square().mean()))
    return costs.index(min(costs))
