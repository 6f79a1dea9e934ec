"""Mails on the terminal, where no mail server is set."""

from django.core.mail import EmailMessage
from django.core.mail.backends import console


class EmailBackend(console.EmailBackend):
    """Django's, without the HTML: the code in a mail is to be found at a glance."""

    def write_message(self, message: EmailMessage) -> None:
        self.stream.write(f"To: {', '.join(message.to)}\nSubject: {message.subject}\n\n")
        self.stream.write(f"{message.body}\n{'-' * 79}\n")
