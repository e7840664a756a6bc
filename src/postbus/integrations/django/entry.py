"""What worker processes import: Django set up, and then the bus of its settings.

`manage.py postbus worker` starts `postbus worker postbus.integrations.django.entry:bus`.
"""

from __future__ import annotations

import django

from .place import configured_bus

__all__ = ["bus"]

django.setup()

bus = configured_bus()
