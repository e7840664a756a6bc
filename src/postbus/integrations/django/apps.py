"""The application: finds the handlers and subscribers of all others, and checks that the bus can be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.signals import request_started
from django.utils.module_loading import autodiscover_modules

from ...errors import PostbusError
from ...lifecycle import in_event_loop
from .place import configured_bus

__all__ = ["EventBus", "check_connection", "check_settings"]

# Looked for in every installed application, as Django looks for admin.py.
_MODULES = ("events", "handlers", "subscribers")


class EventBus(AppConfig):
    """postbus in a Django project."""

    name = "postbus.integrations.django"
    label = "postbus"
    verbose_name = "Event bus"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import what declares handlers and subscribers."""
        autodiscover_modules(*_MODULES)
        register(check_settings, Tags.compatibility)
        register(check_connection, Tags.database)
        request_started.connect(_open_bus, dispatch_uid=self.name)


def _open_bus(**_: Any) -> None:
    """Before a view begins a transaction, whose lock opening may need; in an event loop the bus is opened there."""
    if not in_event_loop():
        configured_bus().ensure_open()


def check_settings(**_: Any) -> Sequence[CheckMessage]:
    """Whether the settings name a bus that can be imported."""
    try:
        configured_bus()
    except PostbusError as error:
        return [Error(str(error), hint="set POSTBUS_BUS = 'module:attribute'", id="postbus.E001")]
    return []


def check_connection(**_: Any) -> Sequence[CheckMessage]:
    """Whether the transport answers; asked by `manage.py check --database default` alone."""
    try:
        bus = configured_bus()
        health = bus.run_sync(bus.health())
    except PostbusError as error:
        return [Error(f"the event bus cannot be opened: {error}", id="postbus.E002")]
    return [] if health.connected else [Error(f"the event bus does not answer: {health.error}", id="postbus.E002")]
