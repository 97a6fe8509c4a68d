"""The search keeps its budget, repeats itself, and finds what the brief says it must."""

from __future__ import annotations

import random

import pytest

from bevstack.detect.search import Budget, SearchError, SearchSettings, cost, score, search
from bevstack.detect.search.evolution import fit_start, mutate
from bevstack.detect.search.find import find_backbone, parse_budget
from bevstack.detect.search.published import START

RELEASED = Budget(flops=18.8e9, layers=91)


def test_short_search_is_seeded_and_within_its_budget() -> None:
    settings = SearchSettings(evaluations=1500, seed=3)
    first, second = search(RELEASED, settings), search(RELEASED, settings)
    assert first == second
    assert first.score == score(first.config) > 900  # from 400.7 at the start
    assert first.cost == cost(first.config, (480, 480))
    assert first.cost.flops <= 18.8e9
    assert first.cost.layers <= 91
    assert search(RELEASED, SearchSettings(evaluations=1500, seed=4)).config != first.config
    rising = [value for _, value in first.history]
    assert rising == sorted(rising)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_released_budget_reaches_what_the_official_search_does(seed: int) -> None:
    assert search(RELEASED, SearchSettings(seed=seed)).score >= 2090


def test_every_block_is_mutated() -> None:
    rng, changed = random.Random(0), set()
    for _ in range(300):
        child = mutate(START, RELEASED, SearchSettings(mutations=1), rng)
        changed |= {i for i, (a, b) in enumerate(zip(START.blocks, child.blocks)) if a != b}
        changed |= {"stem"} if child.stem != START.stem else set()
    assert changed == {0, 1, 2, 3, 4, "stem"}


@pytest.mark.parametrize(
    "budget", [Budget(parameters=0.5e6, layers=60), Budget(macs=0.3e9, layers=60), Budget(latency_ms=5.0, layers=60)]
)
def test_other_budgets_hold_too(budget: Budget) -> None:
    def latency(config: object) -> float:
        return cost(config, (384, 640)).macs / 1e8  # type: ignore[arg-type]

    settings = SearchSettings(image_hw=(384, 640), evaluations=1500)
    found = search(budget, settings, latency=latency if budget.latency_ms else None)
    assert budget.share(found.cost, found.latency_ms) <= 1.0
    assert found.score > score(fit_start(START, budget, settings, latency if budget.latency_ms else None))


def test_budgets_that_cannot_be_met() -> None:
    with pytest.raises(SearchError, match="no limit"):
        search(Budget())
    with pytest.raises(SearchError, match="times the budget"):
        search(Budget(parameters=100))
    with pytest.raises(SearchError, match="belong together"):
        search(Budget(latency_ms=3.0))


def test_budget_texts() -> None:
    assert parse_budget("flops=18.8G, layers=91") == RELEASED
    assert parse_budget("latency=20ms,params=3M") == Budget(latency_ms=20.0, parameters=3e6)
    assert parse_budget("latency=0.02s") == Budget(latency_ms=20.0)
    for bad in ("", "flops", "flops=", "flops=-1", "speed=3", "latency=3G", "latency=3", "flops=3ms", "params=nan", "layers=0"):
        with pytest.raises(SearchError):
            parse_budget(bad)


def test_winner_that_is_too_slow_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from bevstack.detect.search import find
    from bevstack.detect.search.operators import OperatorTable

    class Table(OperatorTable):
        def latency(self, config: object) -> float:
            return cost(config, (384, 640)).macs / 1e8  # type: ignore[arg-type]

    table = Table("onnx", 1, (384, 640), "test", {})
    settings = SearchSettings(image_hw=(384, 640), evaluations=300)
    monkeypatch.setattr(find, "measure_backbone", lambda config, *_: 1.45 * table.latency(config))
    outcome = find_backbone(Budget(latency_ms=5.0), settings, table)
    assert outcome.rounds > 1
    assert outcome.measured_ms is not None
    assert outcome.measured_ms <= 5.1
    monkeypatch.setattr(find, "measure_backbone", lambda *_: 50.0)
    with pytest.raises(SearchError, match="over the budget"):
        find_backbone(Budget(latency_ms=5.0), settings, table)
