"""A picture that smooth-edged shapes are drawn on, in coordinates that do not depend on its size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Point = tuple[float, float]
Plane = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """Float RGB pixels in [0, 1] and where a drawing's own coordinates lie on them.

    A drawing fills [-1, 1]² with v downwards; `x, y` is its centre and `scale` its half size, in pixels.
    """

    pixels: Plane  # (H, W, 3)
    x: float
    y: float
    scale: float

    def placed(self, u: float, v: float, scale: float = 1.0) -> "Canvas":
        """The same picture with the origin moved to (u, v) and the unit scaled."""
        return Canvas(
            pixels=self.pixels, x=self.x + u * self.scale, y=self.y + v * self.scale, scale=self.scale * scale
        )

    def disc(self, u: float, v: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        self.ellipse(u, v, radius, radius, colour, alpha=alpha)

    def ellipse(
        self,
        u: float,
        v: float,
        across: float,
        along: float,
        colour: Colour,
        *,
        turn: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """Half axes `across` and `along`, turned clockwise by `turn` radians."""
        reach = max(across, along)
        patch = self._patch(u - reach, v - reach, u + reach, v + reach)
        if patch is None:
            return
        area, x, y = patch
        x, y = x - (self.x + u * self.scale), y - (self.y + v * self.scale)
        cosine, sine = math.cos(turn), math.sin(turn)
        a, b = max(across * self.scale, 0.4), max(along * self.scale, 0.4)
        distance = np.hypot((x * cosine + y * sine) / a, (y * cosine - x * sine) / b)
        self._blend(area, (1 - distance) * min(a, b), colour, alpha)

    def ring(
        self, u: float, v: float, radius: float, width: float, colour: Colour, alpha: float = 1.0
    ) -> None:
        reach = radius + width
        patch = self._patch(u - reach, v - reach, u + reach, v + reach)
        if patch is None:
            return
        area, x, y = patch
        distance = np.hypot(x - (self.x + u * self.scale), y - (self.y + v * self.scale))
        inside = width * self.scale / 2 - np.abs(distance - radius * self.scale)
        self._blend(area, inside, colour, alpha)

    def line(self, start: Point, end: Point, width: float, colour: Colour, alpha: float = 1.0) -> None:
        """With round ends."""
        half = width / 2
        patch = self._patch(
            min(start[0], end[0]) - half,
            min(start[1], end[1]) - half,
            max(start[0], end[0]) + half,
            max(start[1], end[1]) + half,
        )
        if patch is None:
            return
        area, x, y = patch
        inside = half * self.scale - _distance(x, y, self._pixel(start), self._pixel(end))
        self._blend(area, inside, colour, alpha)

    def polygon(self, points: Sequence[Point], colour: Colour, alpha: float = 1.0) -> None:
        """Any simple polygon."""
        us, vs = [u for u, _ in points], [v for _, v in points]
        patch = self._patch(min(us), min(vs), max(us), max(vs))
        if patch is None:
            return
        area, x, y = patch
        corners = [self._pixel(point) for point in points]
        edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
        nearest = np.minimum.reduce([_distance(x, y, start, end) for start, end in edges])
        inside = np.zeros(nearest.shape, bool)
        for (x0, y0), (x1, y1) in edges:
            if y0 != y1:
                crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
                inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        self._blend(area, np.where(inside, nearest, -nearest), colour, alpha)

    def glow(self, u: float, v: float, radius: float, colour: Colour, strength: float) -> None:
        """Light added around a point, fading to a few per cent at `radius`."""
        patch = self._patch(u - radius, v - radius, u + radius, v + radius)
        if patch is None:
            return
        area, x, y = patch
        square = (x - (self.x + u * self.scale)) ** 2 + (y - (self.y + v * self.scale)) ** 2
        light = np.maximum(0, 1 - square / (radius * self.scale) ** 2) ** 3
        self.pixels[area] += strength * light[:, :, None] * np.asarray(colour, np.float32)

    def _pixel(self, point: Point) -> Point:
        return self.x + point[0] * self.scale, self.y + point[1] * self.scale

    def _patch(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[tuple[slice, slice], Plane, Plane] | None:
        """The pixels of a box, one more on each side, and their centres; None outside of the picture."""
        height, width = self.pixels.shape[:2]
        x0, x1 = max(0, int(self.x + left * self.scale) - 1), min(width, int(self.x + right * self.scale) + 2)
        y0, y1 = (
            max(0, int(self.y + top * self.scale) - 1),
            min(height, int(self.y + bottom * self.scale) + 2),
        )
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
        return (slice(y0, y1), slice(x0, x1)), x, y

    def _blend(self, area: tuple[slice, slice], inside: NDArray[Any], colour: Colour, alpha: float) -> None:
        """`inside`: pixels by which a point lies within the shape; half of one either way is the edge."""
        cover = (np.clip(inside + 0.5, 0, 1) * alpha).astype(np.float32)[:, :, None]
        below = self.pixels[area]
        below += cover * (np.asarray(colour, np.float32) - below)


def _distance(x: Plane, y: Plane, start: Point, end: Point) -> Plane:
    """From each point to the segment between two pixels."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-6)
    along = np.clip(along, 0, 1)
    result: Plane = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return result


def gradient(height: int, width: int, top: Colour, bottom: Colour) -> Plane:
    """A background: (H, W, 3), one colour above and another below."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    rows = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    return np.repeat(rows, width, axis=1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other."""
    return (
        one[0] + (other[0] - one[0]) * share,
        one[1] + (other[1] - one[1]) * share,
        one[2] + (other[2] - one[2]) * share,
    )
