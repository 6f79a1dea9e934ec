"""What was queued to be mailed, and a mail server to send it to."""

from django.core.mail import EmailMultiAlternatives
from mailer.models import Message


def queued_mails() -> list[EmailMultiAlternatives]:
    """All mails in the queue, the first one first."""
    return [message.email for message in Message.objects.order_by("pk")]
