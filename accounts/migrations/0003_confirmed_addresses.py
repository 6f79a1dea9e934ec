from typing import Any

from django.db import migrations


def confirm_all(apps: Any, schema_editor: Any) -> None:
    """Users that are here already were made by the operator: they log in without a code."""
    EmailAddress = apps.get_model("account", "EmailAddress")
    EmailAddress.objects.bulk_create(
        (
            EmailAddress(user=user, email=user.email, verified=True, primary=True)
            for user in apps.get_model("accounts", "User").objects.filter(emailaddress=None)
        ),
        batch_size=1000,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_cache_table"),
        ("account", "0009_emailaddress_unique_primary_email"),
    ]

    operations = [migrations.RunPython(confirm_all, migrations.RunPython.noop)]
