"""What all lists of the office share: nonsense in an address or a form is a message, no crash."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib import admin, messages
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

# What Django's own filters of a field add to its name; a date hierarchy has its own.
FILTER_SUFFIXES = ("", "__exact", "__id__exact", "__isnull", "__gte", "__lt")
DATE_SUFFIXES = ("__year", "__month", "__day")
NONSENSE = (DisallowedModelAdminLookup, ValueError, ValidationError, DataError, OverflowError)


class OfficeAdmin(admin.ModelAdmin):
    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only what the list's filters offer; Django allows every field of the model."""
        own = {f"{self.date_hierarchy}{suffix}" for suffix in DATE_SUFFIXES}
        for each in self.get_list_filter(request):
            if name := getattr(each, "parameter_name", None):
                own.add(name)
            else:
                field = each if isinstance(each, str) else each[0]
                own |= {f"{field}{suffix}" for suffix in FILTER_SUFFIXES}
        return lookup in own

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        with self.sensible_filters(request):
            return super().get_changelist_instance(request)

    @contextmanager
    def sensible_filters(self, request: HttpRequest) -> Iterator[None]:
        """Runs what filters the list; nonsense is a message and IncorrectLookupParameters, upon
        which Django shows the list without filters.
        """
        try:
            yield
        except NONSENSE as error:
            sentence = "The list cannot be filtered like that. This is the list without filters."
            self.message_user(request, sentence, messages.WARNING)
            raise IncorrectLookupParameters from error

    def response_action(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        try:
            for chosen in request.POST.getlist(ACTION_CHECKBOX_NAME):
                self.opts.pk.clean(chosen, None)
        except ValidationError:
            sentence = f"Choose {self.opts.verbose_name_plural} from the list."
            self.message_user(request, sentence, messages.WARNING)
            return None
        return super().response_action(request, queryset)
