"""Accounts and groups in the office. Nobody gives, or takes over, rights that they do not have."""

from collections.abc import Callable, Iterable
from typing import Any

from allauth.account.admin import EmailAddress
from allauth.account.decorators import secure_admin_login
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as django_delete_selected
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.db.models import Count, ManyToManyField, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.generic import RedirectView

from accounts import views
from accounts.models import User
from booking_site.office import OfficeAdmin
from bookings import lifecycle
from bookings.errors import BookingError
from bookings.models import Booking

# One login for all, so that its limits count here too; and one way out.
admin.site.login = secure_admin_login(admin.site.login)
admin.site.logout = views.logout
# And one page to change one's password: with limits on guessing the old one, and a mail about it.
admin.site.password_change = RedirectView.as_view(pattern_name="account_change_password")
# The address stands with the user; a second place to change it would contradict the first.
admin.site.unregister(EmailAddress)
admin.site.unregister(Group)


def may_grant(user: User, permissions: QuerySet[Permission]) -> bool:
    """Whether the user has all these permissions."""
    if user.is_superuser:
        return True
    wanted = permissions.order_by().values_list("content_type__app_label", "codename")
    return {f"{app}.{codename}" for app, codename in wanted} <= user.get_all_permissions()


def may_manage(user: User, other: User) -> bool:
    """Whether the user may change the other's account.

    Whoever can change an account can log in with it: by its password, or a new address for one. So
    nobody manages an account that may do more than they may, nor one that could before it was
    deactivated.
    """
    if user.is_superuser or user.pk == other.pk:
        return True
    if other.is_superuser:
        return False
    given = Permission.objects.filter(Q(user=other) | Q(group__user=other))
    return may_grant(user, given)


class UserCreationForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email", "name")


@admin.register(User)
class UserAdmin(OfficeAdmin, DjangoUserAdmin):
    add_form = UserCreationForm
    ordering = ("email",)
    list_display = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")
    search_fields = ("email", "name")
    show_full_result_count = False
    actions = ["delete_selected"]
    filter_horizontal = ("groups", "user_permissions")
    fieldsets = (
        (None, {"fields": ("email", "name", "password", "bookings")}),
        (
            "Permissions",
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("email", "name", "usable_password", "password1", "password2")}),
    )
    readonly_fields = ("bookings", "last_login", "date_joined")
    delete_confirmation_template = "admin/accounts/user/delete_confirmation.html"
    delete_selected_confirmation_template = "admin/accounts/user/delete_selected_confirmation.html"

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or may_manage(request.user, obj))

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed = super().has_delete_permission(request, obj)
        if obj is None or not allowed:
            return allowed
        return obj.pk != request.user.pk and may_manage(request.user, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Rights one by one, and all rights at once, are for superusers to give; to oneself nobody
        else gives anything, nor takes away the way in.
        """
        fields = list(super().get_readonly_fields(request, obj))
        if not request.user.is_superuser:
            fields += ["is_superuser", "user_permissions"]
            if obj is not None and obj.pk == request.user.pk:
                fields += ["is_active", "is_staff", "groups"]
        return fields

    def formfield_for_manytomany(
        self, db_field: ManyToManyField, request: HttpRequest, **kwargs: Any
    ) -> forms.ModelMultipleChoiceField | None:
        if db_field.name == "groups" and not request.user.is_superuser:
            own = [
                group.pk
                for group in Group.objects.all()
                if may_grant(request.user, group.permissions.all())
            ]
            kwargs["queryset"] = Group.objects.filter(pk__in=own)
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Without the line of bookings for those who may not see bookings."""
        fieldsets = super().get_fieldsets(request, obj)
        if request.user.has_perm("bookings.view_booking"):
            return fieldsets
        return [
            (title, options | {"fields": [f for f in options["fields"] if f != "bookings"]})
            for title, options in fieldsets
        ]

    def save_model(
        self, request: HttpRequest, obj: User, form: forms.ModelForm, change: bool
    ) -> None:
        """An address that staff type in is confirmed by a code at the next login."""
        super().save_model(request, obj, form, change)
        if "email" in form.changed_data:
            obj.set_address(confirmed=False)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        lifecycle.delete_users(User.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        lifecycle.delete_users(queryset)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict | None = None
    ) -> HttpResponse:
        delete = super().delete_view
        return self._or_refuse(request, lambda: delete(request, object_id, extra_context))

    @admin.action(permissions=["delete"], description="Delete selected %(verbose_name_plural)s")
    def delete_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        return self._or_refuse(request, lambda: django_delete_selected(self, request, queryset))

    def _or_refuse(self, request: HttpRequest, delete: Callable[[], Any]) -> Any:
        """Deletes; or nothing, and says why: they have booked since the page was looked at."""
        try:
            with transaction.atomic():
                return delete()
        except BookingError as refusal:
            self.message_user(request, str(refusal), messages.ERROR)
        return redirect(request.get_full_path())

    @admin.display(description="Bookings")
    def bookings(self, user: User) -> SafeString:
        return format_html(
            '<a href="{}?user__id__exact={}">{} to come, {} in all</a>',
            reverse("admin:bookings_booking_changelist"),
            user.pk,
            user.bookings.to_come().count(),
            user.bookings.count(),
        )

    def get_deleted_objects(
        self, objs: Iterable[User], request: HttpRequest
    ) -> tuple[list, dict, set, list]:
        """Those who have bookings to come stay: `protected` says whose, and the page what to do.

        Past bookings stay, too, as those of nobody; their history keeps the address.
        """
        deleted, count, lacking, protected = super().get_deleted_objects(objs, request)
        to_come = Booking.objects.to_come().filter(user__in=[user.pk for user in objs])
        whose = to_come.order_by().values_list("user", "user__email").annotate(n=Count("*"))
        for pk, email, number in whose:
            url = reverse("admin:accounts_user_change", args=[pk])
            protected.append(format_html('<a href="{}">{}</a>: {} to come', url, email, number))
        return deleted, count, lacking, protected


@admin.register(Group)
class GroupAdmin(OfficeAdmin, DjangoGroupAdmin):
    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or may_grant(request.user, obj.permissions.all()))

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        allowed = super().has_delete_permission(request, obj)
        return allowed and (obj is None or may_grant(request.user, obj.permissions.all()))

    def formfield_for_manytomany(
        self, db_field: ManyToManyField, request: HttpRequest, **kwargs: Any
    ) -> forms.ModelMultipleChoiceField | None:
        if db_field.name == "permissions" and not request.user.is_superuser:
            own = Q(pk=None)
            for permission in request.user.get_all_permissions():
                app, _, codename = permission.partition(".")
                own |= Q(content_type__app_label=app, codename=codename)
            kwargs["queryset"] = Permission.objects.filter(own)
        return super().formfield_for_manytomany(db_field, request, **kwargs)
