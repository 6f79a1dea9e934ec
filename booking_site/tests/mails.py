"""The codes in the e-mails that the site sends."""

import re

from django.core import mail
from mailer.models import Message


def code_in(text: str) -> str:
    """The one code in the text of a mail."""
    [code] = re.findall(r"^ +(\d{4}-\d{4})$", text, re.MULTILINE)
    return code


def sent_to(address: str) -> list[mail.EmailMessage]:
    """What this process sent to that address, the latest first."""
    return [message for message in reversed(mail.outbox) if message.to == [address]]


def queued_for(address: str) -> list[mail.EmailMessage]:
    """What a site in another process left in the queue for that address, the latest first."""
    queue = [message.email for message in Message.objects.order_by("-pk")]
    return [message for message in queue if message.to == [address]]
