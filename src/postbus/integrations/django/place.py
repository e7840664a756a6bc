"""Where a Django project's bus is: POSTBUS_BUS in its settings."""

from __future__ import annotations

from django.conf import settings

from ...bus import Bus
from ...errors import ConfigError
from ...program import Program

__all__ = ["configured_bus"]


def configured_bus() -> Bus:
    """The bus of this project.

    Raises:
        ConfigError: when the settings do not name one, or it cannot be imported.
    """
    place = getattr(settings, "POSTBUS_BUS", None)
    if not isinstance(place, str):
        raise ConfigError(
            f"the settings have POSTBUS_BUS = {place!r}: expected module:attribute, such as 'shop.bus:bus'"
        )
    return Program(place).load()
