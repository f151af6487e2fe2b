"""Types of what is given to options: each says in its error what a good value looks like."""

from __future__ import annotations

import math
import re

import click


class Number(click.FloatRange):
    """A finite number within bounds, which click lets nan through."""

    name = "number"

    def convert(self, value, param, ctx) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Size(click.ParamType):
    """WIDTHxHEIGHT."""

    name = "WIDTHxHEIGHT"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            self.fail(f"{value!r} is not like 640x480", param, ctx)
        return int(width), int(height)


class Region(click.ParamType):
    """LEFT,TOP,RIGHT,BOTTOM."""

    name = "LEFT,TOP,RIGHT,BOTTOM"

    def convert(self, value, param, ctx) -> tuple[float, float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            left, top, right, bottom = map(float, str(value).split(","))
        except ValueError:
            left = top = right = bottom = -1.0
        if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
            self.fail(f"{value!r} is not like 0.25,0,0.75,1 or 160,0,480,480", param, ctx)
        return left, top, right, bottom


class Address(click.ParamType):
    """[HOST:]PORT."""

    name = "[HOST:]PORT"

    def convert(self, value, param, ctx) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]:|([^:\[\]/]+):)?([0-9]{1,5})", str(value))
        if not found or int(found[3]) > 65535:
            self.fail(f"{value!r} is not like 8080, 0.0.0.0:8080 or [::1]:8080", param, ctx)
        return found[1] or found[2] or "127.0.0.1", int(found[3])


class Channels(click.ParamType):
    """One number, or three: RED,GREEN,BLUE."""

    name = "NUMBER[,NUMBER,NUMBER]"

    def convert(self, value, param, ctx) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(map(float, str(value).split(",")))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 3):
            self.fail(f"{value!r} is not like 127.5 or 123.7,116.3,103.5", param, ctx)
        return numbers


class Pair(click.ParamType):
    """NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not like name=value", param, ctx)
        return name, text


THREADS = click.IntRange(1, 1024)  # more than a machine can start would end the process


class Counts(click.ParamType):
    """One or more numbers of THREADS, separated by commas."""

    name = "N,..."

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(dict.fromkeys(map(int, str(value).split(","))))
        except ValueError:
            counts = (0,)
        if not all(THREADS.min <= count <= THREADS.max for count in counts):
            self.fail(f"{value!r} is not like 1,2,4, each {THREADS.max} at most", param, ctx)
        return counts
