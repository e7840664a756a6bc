"""Dead letters as Django sees them: a model without a table, for the admin's lists and permissions.

The letters are where the bus's transport keeps them, which may be no database at all.
"""

from __future__ import annotations

from django.db import models

__all__ = ["DeadLetter"]


class DeadLetter(models.Model):
    """One dead letter; `change` is the permission to replay, `delete` that to discard."""

    id = models.UUIDField(primary_key=True)

    class Meta:
        """No table."""

        managed = False
        default_permissions = ("view", "change", "delete")
        verbose_name = "dead letter"

    def __str__(self) -> str:
        return str(self.id)
