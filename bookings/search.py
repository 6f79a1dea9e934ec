"""What the desk types to find a booking: a reference, an address, a name, a number, a link."""

import re
import uuid

from django.db.models import F, Func, Q, TextField, Value
from django.db.models.functions import Replace

from accounts.models import User
from bookings.models import REFERENCE_ALPHABET, Booking, BookingQuerySet

UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.I)
PHONE = re.compile(r"[0-9 ()/.+-]+")
PUNCTUATION = " ()/.+-"  # of telephone numbers
MOST_WORDS = 8

# What Crockford's base 32 leaves out because it is misread, and what it is misread for.
MISREAD = str.maketrans("OIL", "011")


def search_bookings(bookings: BookingQuerySet, text: str) -> BookingQuerySet:
    """Those of `bookings` that the text names.

    What is a reference, a booking's id (or its address), or an e-mail address is looked up as such,
    by an index: two queries at most. Where nothing is found so, and for all else, each word must
    occur in the name, e-mail address, phone number or account, or begin the reference: a scan.
    """
    text = text.strip()
    if found := UUID.search(text):
        return bookings.filter(pk=uuid.UUID(found[0]))
    # Asked by itself: OR-ed with the rest it would be part of the scan.
    if (exact := _exactly(text)) and Booking.objects.filter(exact).exists():
        return bookings.filter(exact)
    if PHONE.fullmatch(text):
        digits = re.sub(r"[^0-9]", "", text.replace("(0)", "")).lstrip("0")
        if len(digits) > 3:
            return bookings.alias(digits=PHONE_DIGITS).filter(digits__contains=digits)
    for word in text.split()[:MOST_WORDS]:
        bookings = bookings.filter(_contains(word))
    return bookings


def as_reference(text: str) -> str:
    """The reference that the text can be read as, or an empty one."""
    plain = re.sub(r"[\s#-]", "", text).upper().translate(MISREAD)
    return plain if re.fullmatch(f"[{REFERENCE_ALPHABET}]{{8}}", plain) else ""


def _exactly(text: str) -> Q | None:
    if reference := as_reference(text):
        return Q(reference=reference)
    if "@" not in text or " " in text:
        return None
    given = ~Q(email="") & Q(email__iexact=text)  # as the index has it: booking_by_email
    users = list(User.objects.filter(email=text.lower()).values_list("pk", flat=True))
    return given | Q(user__in=users) if users else given


def _contains(word: str) -> Q:
    account = Q(name__icontains=word) | Q(email__icontains=word)
    return (
        account
        | Q(phone__contains=word)
        | Q(reference__startswith=word.upper().translate(MISREAD))
        | Q(user__in=User.objects.filter(account).values("pk"))
    )


# “+49 (0)30 12-34” is found by “030 1234” and by “+49 30 1234”.
PHONE_DIGITS = Func(
    Replace(F("phone"), Value("(0)")),
    Value(PUNCTUATION),
    Value(""),
    function="translate",
    output_field=TextField(),
)
