"""World styles: palette, density, road layout, light and weather. One frozen record per look."""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """How a world looks. Colours are linear reflectance 0..1; lengths are metres.

    Attributes:
        asphalt, pavement, verge: ground colours. ``verge`` fills the blocks.
        facades: wall colours to draw from.
        foliage: colours of tree crowns.
        block: range of distances between parallel roads.
        warp: amplitude of the sideways bend of the road grid; 0 gives straight streets.
        lanes: lanes per direction to draw from, one draw per road.
        building_height: range. ``building_fill``: share of the kerb that is built up, 0..1.
        setback: distance from pavement to facade.
        tree_fill: trees per 10 m of kerb.
        light: ``day``, ``dusk`` or ``night``.
        sun: (elevation in degrees, strength). ``ambient``: light of the sky; ``sky_top`` and ``sky_low``: its colours.
        clouds: 0 clear .. 1 overcast.
        visibility: distance at which half of an object's contrast is left.
        traffic, people, parked, works: multipliers of the number of moving vehicles, pedestrians, parked vehicles, road works.
        noise: standard deviation of sensor noise in grey levels at mid grey.
        defocus: standard deviation of the lens blur in pixels at 1600x900.
    """

    name: str
    asphalt: Color = (0.16, 0.16, 0.17)
    pavement: Color = (0.42, 0.41, 0.39)
    verge: Color = (0.14, 0.22, 0.07)
    facades: tuple[Color, ...] = ((0.45, 0.34, 0.27), (0.55, 0.5, 0.42), (0.38, 0.36, 0.35), (0.5, 0.28, 0.2))
    foliage: tuple[Color, ...] = ((0.09, 0.2, 0.05), (0.14, 0.26, 0.07))
    block: tuple[float, float] = (72.0, 95.0)
    warp: float = 0.0
    lanes: tuple[int, ...] = (1, 2)
    building_height: tuple[float, float] = (7.0, 24.0)
    building_fill: float = 0.7
    setback: float = 2.0
    tree_fill: float = 0.5
    light: str = "day"
    sun: tuple[float, float] = (45.0, 0.9)
    ambient: Color = (0.42, 0.46, 0.52)
    sky_top: Color = (0.2, 0.4, 0.85)
    sky_low: Color = (0.75, 0.83, 0.92)
    clouds: float = 0.3
    visibility: float = 600.0
    traffic: float = 1.0
    people: float = 1.0
    parked: float = 1.0
    works: float = 1.0
    noise: float = 2.0
    defocus: float = 0.8


STYLES: dict[str, Style] = {
    s.name: s
    for s in (
        Style(
            "old-town",
            setback=0.5,
            building_fill=0.9,
            building_height=(9, 18),
            block=(70, 85),
            lanes=(1,),
            warp=4.0,
            people=1.3,
        ),
        Style(
            "downtown",
            facades=((0.3, 0.34, 0.38), (0.45, 0.46, 0.48), (0.2, 0.24, 0.3), (0.6, 0.58, 0.54)),
            building_height=(18, 60),
            building_fill=0.92,
            verge=(0.36, 0.35, 0.34),
            lanes=(2,),
            tree_fill=0.25,
            traffic=1.4,
            people=1.4,
            sun=(55.0, 1.0),
        ),
        Style(
            "suburb",
            facades=((0.7, 0.66, 0.58), (0.6, 0.45, 0.35), (0.75, 0.74, 0.72), (0.45, 0.5, 0.55)),
            building_height=(4, 8),
            building_fill=0.45,
            setback=7.0,
            tree_fill=0.9,
            lanes=(1,),
            warp=9.0,
            traffic=0.8,
            clouds=0.15,
            sun=(38.0, 1.05),
        ),
        Style(
            "industrial",
            facades=((0.5, 0.52, 0.54), (0.3, 0.38, 0.45), (0.55, 0.47, 0.35), (0.35, 0.35, 0.36)),
            verge=(0.3, 0.27, 0.2),
            building_height=(6, 12),
            building_fill=0.6,
            setback=6.0,
            tree_fill=0.15,
            lanes=(1, 2),
            works=1.6,
            people=0.7,
            clouds=0.8,
            sun=(40.0, 0.45),
            ambient=(0.55, 0.57, 0.6),
            sky_top=(0.55, 0.6, 0.66),
            sky_low=(0.8, 0.82, 0.84),
        ),
        Style(
            "overcast-boulevard",
            asphalt=(0.1, 0.1, 0.11),
            lanes=(2,),
            warp=6.0,
            tree_fill=1.0,
            clouds=1.0,
            sun=(50.0, 0.1),
            ambient=(0.6, 0.62, 0.66),
            sky_top=(0.62, 0.66, 0.7),
            sky_low=(0.78, 0.8, 0.82),
            visibility=300.0,
            noise=2.6,
        ),
        Style(
            "fog",
            asphalt=(0.13, 0.13, 0.14),
            warp=5.0,
            clouds=1.0,
            sun=(45.0, 0.05),
            ambient=(0.6, 0.62, 0.64),
            sky_top=(0.7, 0.71, 0.72),
            sky_low=(0.74, 0.75, 0.76),
            visibility=75.0,
            noise=2.6,
            defocus=1.2,
        ),
        Style(
            "desert",
            asphalt=(0.24, 0.23, 0.22),
            pavement=(0.55, 0.5, 0.42),
            verge=(0.5, 0.4, 0.27),
            facades=((0.7, 0.6, 0.46), (0.65, 0.52, 0.4), (0.76, 0.7, 0.6)),
            foliage=((0.2, 0.25, 0.1), (0.26, 0.28, 0.12)),
            building_height=(4, 14),
            building_fill=0.5,
            setback=4.0,
            tree_fill=0.3,
            sun=(65.0, 1.25),
            sky_low=(0.9, 0.87, 0.8),
            clouds=0.05,
            noise=1.6,
        ),
        Style(
            "dusk",
            warp=5.0,
            light="dusk",
            sun=(7.0, 0.4),
            ambient=(0.22, 0.2, 0.27),
            sky_top=(0.12, 0.16, 0.36),
            sky_low=(0.9, 0.5, 0.28),
            clouds=0.4,
            visibility=350.0,
            noise=3.5,
        ),
        Style(
            "night-town",
            light="night",
            sun=(35.0, 0.02),
            ambient=(0.02, 0.021, 0.028),
            sky_top=(0.002, 0.003, 0.008),
            sky_low=(0.015, 0.013, 0.015),
            clouds=0.5,
            noise=5.0,
            defocus=1.1,
            building_fill=0.85,
        ),
        Style(
            "night-suburb",
            light="night",
            warp=8.0,
            sun=(35.0, 0.03),
            ambient=(0.018, 0.02, 0.028),
            sky_top=(0.002, 0.003, 0.009),
            sky_low=(0.01, 0.01, 0.015),
            building_height=(4, 9),
            building_fill=0.45,
            setback=6.0,
            tree_fill=0.8,
            lanes=(1,),
            noise=5.5,
            defocus=1.0,
        ),
        Style(
            "autumn-park",
            foliage=((0.4, 0.2, 0.04), (0.45, 0.3, 0.05), (0.3, 0.1, 0.04), (0.16, 0.2, 0.05)),
            verge=(0.22, 0.2, 0.07),
            tree_fill=1.3,
            building_fill=0.3,
            warp=10.0,
            sun=(22.0, 0.95),
            clouds=0.45,
        ),
        Style(
            "snow",
            asphalt=(0.3, 0.3, 0.32),
            pavement=(0.72, 0.74, 0.78),
            verge=(0.8, 0.82, 0.86),
            foliage=((0.2, 0.22, 0.2), (0.6, 0.62, 0.64)),
            tree_fill=0.6,
            clouds=0.9,
            sun=(18.0, 0.3),
            ambient=(0.5, 0.53, 0.6),
            sky_top=(0.6, 0.65, 0.72),
            sky_low=(0.8, 0.82, 0.85),
            visibility=220.0,
        ),
    )
}
