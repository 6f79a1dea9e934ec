"""The groups that staff start with, and what each may do in the office.

They are made once, after `migrate`. What an office changes by hand stays as it is: permissions are
given to a group when it is made and never again, and where there is any group, none is made.
"""

from django.apps import apps as installed
from django.apps.registry import Apps
from django.contrib.auth.management import create_permissions

FRONT_DESK = "Front desk"
PROGRAMME = "Programme"
SUPERVISORS = "Supervisors"

APPS = ("accounts", "slots", "bookings")
LOOK = {
    "slots.view_doctor",
    "slots.view_show",
    "slots.view_slot",
    "slots.view_seat",
    "bookings.view_booking",
}
DESK = {"bookings.confirm_booking", "bookings.cancel_booking", "bookings.release_booking"}
PLAN = {
    *(
        f"slots.{verb}_{what}"
        for verb in ("add", "change", "delete")
        for what in ("doctor", "show")
    ),
    *(f"slots.{verb}_slot" for verb in ("add", "change", "delete", "cancel")),
}
LEAD = {
    "bookings.export_booking",
    "accounts.view_user",
    "accounts.add_user",
    "accounts.change_user",
}
GROUPS = {
    FRONT_DESK: LOOK | DESK,
    PROGRAMME: LOOK | PLAN,
    SUPERVISORS: LOOK | DESK | PLAN | LEAD,
}


def create_staff_groups(apps: Apps, *, using: str) -> None:
    """Makes the groups, in a database that has no group yet.

    `apps` are the models as they are after this migration. Where it has not come far enough for the
    desk's permissions, nothing is made: the migration that completes them comes here again.
    """
    try:
        Group = apps.get_model("auth", "Group")
        Permission = apps.get_model("auth", "Permission")
    except LookupError:
        return
    if Group.objects.using(using).exists():
        return
    for label in APPS:
        # Django makes them after each application's turn; this is the turn of the first.
        config = installed.get_app_config(label)
        create_permissions(config, verbosity=0, using=using, apps=apps)
    permissions = Permission.objects.using(using).filter(content_type__app_label__in=APPS)
    known = {
        f"{permission.content_type.app_label}.{permission.codename}": permission
        for permission in permissions.select_related("content_type")
    }
    if not known.keys() >= LOOK | DESK:
        return
    for name, wanted in GROUPS.items():
        group = Group.objects.using(using).create(name=name)
        group.permissions.set(known[one] for one in wanted & known.keys())
