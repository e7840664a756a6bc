"""The admin's view of dead letters: listed by subscription, shown whole, replayed and discarded."""

from __future__ import annotations

from pprint import pformat
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from ...delivery import DeadLetter as Letter
from ...errors import CodecError
from ...journal import acting_as
from .models import DeadLetter
from .place import configured_bus

__all__ = ["DeadLetterAdmin"]

_PAGE = 100
_LIST = "admin:postbus_deadletter_changelist"


@admin.register(DeadLetter)
class DeadLetterAdmin(admin.ModelAdmin):
    """Uses the public calls of the bus, and Django's permissions."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """Letters are buried, not written."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """A page of letters; what is posted replays or discards those that were marked."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            self._act(request, request.POST.getlist("letter"), request.POST.get("action", ""))
            return redirect(request.get_full_path())
        subscription, after = request.GET.get("subscription") or None, _uuid(request.GET.get("after"))
        bus = configured_bus()
        letters = bus.run_sync(bus.dead.list(subscription, limit=_PAGE, after=after))
        standing = bus.run_sync(bus.stats())
        context = {
            "letters": letters,
            "counts": [(name, stats.dead) for name, stats in sorted(standing.items()) if stats.dead],
            "subscription": subscription,
            "next": letters[-1].id if len(letters) == _PAGE else None,
        }
        return self._page(request, "postbus/dead_letters.html", "Dead letters", {**context, **(extra_context or {})})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002 - Django's signature
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """One letter: its event, what went wrong, and what can be done."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            self._act(request, [object_id], request.POST.get("action", ""))
            return redirect(_LIST)
        letter = self._letter(object_id)
        if letter is None:
            raise Http404(f"there is no dead letter {object_id}: it was replayed or discarded")
        context = {"letter": letter, "payload": _payload(letter)}
        return self._page(request, "postbus/dead_letter.html", str(letter.id), {**context, **(extra_context or {})})

    def _letter(self, text: str) -> Letter | None:
        letter_id, bus = _uuid(text), configured_bus()
        return None if letter_id is None else bus.run_sync(bus.dead.get(letter_id))

    def _act(self, request: HttpRequest, ids: list[str], action: str) -> None:
        allowed = {"replay": self.has_change_permission, "discard": self.has_delete_permission}
        if action not in allowed or not allowed[action](request):
            raise PermissionDenied
        bus, done = configured_bus(), 0
        with acting_as(f"{request.user} via admin"):
            for letter in filter(None, map(self._letter, ids)):
                what = bus.dead.replay if action == "replay" else bus.dead.discard
                done += bus.run_sync(what(letter.subscription, [letter.id]))
        kept = len(ids) - done
        gone = f"; {kept} were gone already" if kept else ""
        messages.success(request, f"{done} dead letters: {action} done{gone}.")

    def _page(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        rights = {
            "may_replay": self.has_change_permission(request),
            "may_discard": self.has_delete_permission(request),
        }
        site = self.admin_site.each_context(request)
        return TemplateResponse(
            request,
            template,
            {**site, "title": title, "opts": self.model._meta, **rights, **context},  # noqa: SLF001 - Django's public one
        )


def _payload(letter: Letter) -> str:
    try:
        return pformat(configured_bus().catalog.open(letter.envelope, None).payload, sort_dicts=False)
    except CodecError as error:
        return f"(cannot be decoded: {error})"


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
