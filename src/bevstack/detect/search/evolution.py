"""The evolutionary search of MAE-DET (brief mae-det, section 2), on closed forms: a hundred thousand structures in a minute.

Differences from the released code, all on purpose: the last super-block is mutated like every other (the release never picks
it), one generator draws every random number, and widths shrink by themselves where the start does not fit the budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bevstack.errors import BevstackError
from bevstack.nn.superblocks import SuperBlock, SuperBlockConfig

from .cost import Cost, cost
from .published import START
from .score import DETECTION_WEIGHTS, score

_GRID = 8
_FACTORS = (1.5, 1.25, 0.8, 0.6, 0.5)
_STEPS = (-2, -1, 1, 2)
_KERNELS = (3, 5)


class SearchError(BevstackError):
    """A budget that nothing fits, or settings that contradict each other."""


@dataclass(frozen=True)
class Budget:
    """Upper limits; None does not limit.

    Attributes:
        flops: as in ``Cost.flops``, for ``SearchSettings.image_hw``.
        macs: of the convolutions, for ``SearchSettings.image_hw``.
        parameters: weights with batch norms.
        layers: convolutions on the longest path.
        latency_ms: of one image, as ``latency`` predicts (argument of ``search``).
    """

    flops: float | None = None
    macs: float | None = None
    parameters: float | None = None
    layers: int | None = None
    latency_ms: float | None = None

    def share(self, paper: Cost, latency_ms: float | None) -> float:
        """The largest used share of any limit: 1 is full, more is over."""
        pairs = (
            (paper.flops, self.flops),
            (paper.macs, self.macs),
            (paper.parameters, self.parameters),
            (paper.layers, self.layers),
            (latency_ms, self.latency_ms),
        )
        return max((used / limit for used, limit in pairs if used is not None and limit is not None), default=0.0)


@dataclass(frozen=True)
class SearchSettings:
    """The released detection search, unless told otherwise.

    Attributes:
        image_hw: height and width for FLOPs and MACs, pixels.
        evaluations: structures looked at.
        population: structures kept.
        seed: of everything random.
        weights: of the stages C1..C5 in the score.
        mutations: changed blocks per child.
        stem_cap, width_cap: most channels of the stem and of a block.
        depth_cap: most residual blocks of one super-block; None: as many as the layer budget gives each, or 10 without one.
        first_depth_cap: the same of the first super-block, whose maps are large.
        narrowest: a bottleneck has at least 1 / ``narrowest`` of the block's width. 10 as released; 6 keeps blocks from
            becoming so narrow that a processor is not filled.
    """

    image_hw: tuple[int, int] = (480, 480)
    evaluations: int = 100_000
    population: int = 256
    seed: int = 0
    weights: tuple[float, float, float, float, float] = DETECTION_WEIGHTS
    mutations: int = 2
    stem_cap: int = 32
    width_cap: int = 2048
    depth_cap: int | None = None
    first_depth_cap: int = 3
    narrowest: int = 10


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        config: the best structure within the budget.
        score: its score.
        cost: its cost for the settings' image size.
        latency_ms: predicted; None without a latency budget.
        evaluations: structures looked at.
        history: (evaluations, best score so far), whenever it rose.
    """

    config: SuperBlockConfig
    score: float
    cost: Cost
    latency_ms: float | None
    evaluations: int
    history: tuple[tuple[int, float], ...] = field(default=(), repr=False)


def fit_start(
    start: SuperBlockConfig,
    budget: Budget,
    settings: SearchSettings,
    latency: Callable[[SuperBlockConfig], float] | None = None,
) -> SuperBlockConfig:
    """``start`` with widths shrunk until it uses at most half of every limit: a start needs room to grow.

    Raises:
        SearchError: even the narrowest structure is over the budget.
    """
    current = start
    while True:
        share = budget.share(cost(current, settings.image_hw), latency(current) if latency else None)
        if share <= 0.5:
            return current
        smaller = SuperBlockConfig(
            _narrower(current.stem),
            tuple(replace(b, out=_narrower(b.out), bottleneck=_narrower(b.bottleneck)) for b in current.blocks),
        )
        if smaller == current:
            if share <= 1.0:
                return current
            raise SearchError(
                f"the smallest start ({current.label}) needs {share:.3g} times the budget: raise the budget or shrink the image"
            )
        current = smaller


def mutate(parent: SuperBlockConfig, budget: Budget, settings: SearchSettings, rng: random.Random) -> SuperBlockConfig:
    """A child with ``settings.mutations`` changed blocks. It may break the budget; the layer limit is mostly kept."""
    child = parent
    entries = len(parent.blocks) + 1
    for _ in range(entries):
        child = parent
        for _ in range(settings.mutations):
            child = _mutate_block(child, rng.randint(0, len(child.blocks)), budget, settings, rng)
        if budget.layers is None or 1 + 3 * sum(b.layers for b in child.blocks) <= budget.layers:
            break
    return child


def search(
    budget: Budget,
    settings: SearchSettings | None = None,
    *,
    start: SuperBlockConfig = START,
    latency: Callable[[SuperBlockConfig], float] | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> Found:
    """The structure with the highest score found within the budget. Same arguments, same result.

    Args:
        budget: at least one limit.
        start: its widths shrink if it does not leave room (``fit_start``).
        latency: milliseconds of one image for a structure; needed for ``budget.latency_ms``.
        on_progress: called about every thousand evaluations with (evaluations, best score).

    Raises:
        SearchError: no limit, or nothing fits.
    """
    settings = settings or SearchSettings()
    if budget == Budget():
        raise SearchError("the budget has no limit: the score grows without end; limit flops, parameters, layers or latency")
    if (budget.latency_ms is None) != (latency is None):
        raise SearchError("a latency budget and a measured operator table belong together: give both or none")
    rng = random.Random(settings.seed)
    first = fit_start(start, budget, settings, latency)
    population: list[tuple[float, SuperBlockConfig]] = [(score(first, settings.weights), first)] * settings.population
    best = population[0]
    history = [(0, best[0])]
    for n in range(1, settings.evaluations + 1):
        child = mutate(population[rng.randrange(len(population))][1], budget, settings, rng)
        # The score is cheapest, and what would fall out of the population at once need not be costed.
        value = score(child, settings.weights)
        if value > population[-1][0] or len(population) < 2 * settings.population:
            paper = cost(child, settings.image_hw)
            if budget.share(paper, None) <= 1.0 and (latency is None or latency(child) <= (budget.latency_ms or 0.0)):
                population.append((value, child))
                if value > best[0]:
                    best = (value, child)
                    history.append((n, value))
        if n % settings.population == 0:
            unique = dict(sorted(((c, v) for v, c in population), key=lambda item: -item[1]))
            population = [(v, c) for c, v in unique.items()][: settings.population]
        if on_progress is not None and n % 1000 == 0:
            on_progress(n, best[0])
    config = best[1]
    return Found(
        config,
        best[0],
        cost(config, settings.image_hw),
        latency(config) if latency else None,
        settings.evaluations,
        tuple(history),
    )


def _grid(width: float) -> int:
    return max(_GRID, int(width / _GRID + 0.5) * _GRID)


def _narrower(width: int) -> int:
    return max(_GRID, int(width * 0.8 / _GRID) * _GRID)


def _scaled(width: int, cap: int, rng: random.Random) -> int:
    return min(_grid(width * rng.choice(_FACTORS)), cap)


def _mutate_block(
    config: SuperBlockConfig, index: int, budget: Budget, settings: SearchSettings, rng: random.Random
) -> SuperBlockConfig:
    """Entry 0 is the stem, of which only the width changes; of a super-block one of four fields does (brief 2.1)."""
    if index == 0:
        return SuperBlockConfig(_scaled(config.stem, settings.stem_cap, rng), config.blocks)
    blocks = list(config.blocks)
    block = blocks[index - 1]
    inputs = config.stem if index == 1 else blocks[index - 2].out
    what = rng.choice(("out", "kernel", "bottleneck", "layers"))
    if what == "out":
        out = min(max(_scaled(block.out, settings.width_cap, rng), inputs), 4 * inputs)
        if index < len(blocks):
            following = blocks[index].out
            out = max(min(out, following), _grid(following / 4))
        block = replace(block, out=out, bottleneck=min(block.bottleneck, out))
    elif what == "kernel":
        block = replace(block, kernel=_KERNELS[0] if block.kernel == _KERNELS[1] else _KERNELS[1])
    elif what == "bottleneck":
        block = replace(block, bottleneck=min(_scaled(block.bottleneck, settings.width_cap, rng), block.out))
    else:
        deepest = settings.first_depth_cap if index == 1 else _depth_cap(len(blocks), budget, settings)
        block = replace(block, layers=min(max(block.layers + rng.choice(_STEPS), 1), deepest))
    narrowest = -(-block.out // (settings.narrowest * _GRID)) * _GRID
    blocks[index - 1] = replace(
        block, bottleneck=max(block.bottleneck, narrowest), kernel=_fitting_kernel(block.kernel, blocks[:index], settings)
    )
    return SuperBlockConfig(config.stem, tuple(blocks))


def _depth_cap(blocks: int, budget: Budget, settings: SearchSettings) -> int:
    if settings.depth_cap is not None:
        return settings.depth_cap
    return max(1, budget.layers // 3 // (blocks - 1)) if budget.layers is not None else 10


def _fitting_kernel(kernel: int, upto: Sequence[SuperBlock], settings: SearchSettings) -> int:
    """A kernel that is much larger than its map would multiply padding."""
    side = min(settings.image_hw) // 2
    for block in upto:
        side = -(-side // block.stride)
    while kernel > 1 and 1.5 * kernel > side:
        kernel -= 2
    return kernel
