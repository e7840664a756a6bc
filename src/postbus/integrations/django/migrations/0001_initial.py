"""Makes what the bus needs where its URL says, as `postbus setup` does; idempotent, over connections of its own."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

from postbus.integrations.django.place import configured_bus

__all__ = ["Migration", "set_up"]


def set_up(apps: Any, schema_editor: Any) -> None:  # noqa: ARG001 - Django's signature
    """Tables, streams and declarations."""
    bus = configured_bus()
    bus.run_sync(bus.setup())


class Migration(migrations.Migration):
    """The one for permissions on dead letters, and the tables."""

    initial = True
    atomic = False
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="DeadLetter",
            fields=[("id", models.UUIDField(primary_key=True, serialize=False))],
            options={
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
                "verbose_name": "dead letter",
            },
        ),
        migrations.RunPython(set_up, migrations.RunPython.noop),
    )
