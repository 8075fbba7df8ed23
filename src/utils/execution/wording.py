"""How figures are written for people: metrics, settings, times and sizes."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any


def figure(value: float | None) -> str:
    """A metric: `0.9871`, `3.2e-05`, `1200`; empty where there is none."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def spelled(params: Mapping[str, Any]) -> str:
    """`learning_rate=0.0012 hidden=64`"""
    return " ".join(f"{name}={short(str(value))}" for name, value in params.items())


def short(value: str) -> str:
    """A number in four digits; anything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if len(value) <= 6 else f"{number:.4g}"


def duration(time: timedelta | None) -> str:
    """`8 s`, `2 min 5 s`, `3 h 20 min`"""
    seconds = round(time.total_seconds()) if time else 0
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def when(moment: datetime | None) -> str:
    """`11-23 09:30`; the year instead of the time where it is another one."""
    if moment is None:
        return ""
    this_year = moment.year == datetime.now().year
    return f"{moment:%m-%d %H:%M}" if this_year else f"{moment:%Y-%m-%d}"


def size(count: int) -> str:
    """Bytes: `512 B`, `2.5 MB`"""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
