from django.contrib import admin
from django.http import HttpRequest

from slots.models import Doctor, Show, Slot


@admin.register(Doctor)
class DoctorAdmin(admin.ModelAdmin):
    list_display = ("name", "specialization", "time_zone")
    search_fields = ("name", "specialization")


@admin.register(Show)
class ShowAdmin(admin.ModelAdmin):
    list_display = ("name", "venue", "time_zone")
    search_fields = ("name", "venue")


@admin.register(Slot)
class SlotAdmin(admin.ModelAdmin):
    """To look at only: changes are `inventory`'s and `lifecycle`'s."""

    list_display = ("subject", "starts_at", "ends_at", "seating", "cancelled_at")
    list_select_related = ("doctor", "show")
    list_filter = ("seating",)
    date_hierarchy = "starts_at"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Slot | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Slot | None = None) -> bool:
        return False
