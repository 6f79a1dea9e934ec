"""What a booking can be refused for: one small tree, each with its code and a sentence."""

from collections.abc import Sequence


class BookingError(Exception):
    """A refusal. Nothing was changed. `code` is the API's name for it."""

    code = "invalid"
    message = "That is not possible."

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.message)


class SeatsTaken(BookingError):
    """Some of the named seats belong to somebody else. `labels`: which."""

    code = "seats_taken"

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        if len(self.labels) == 1:
            what = f"Seat {self.labels[0]} has"
        else:
            what = f"Seats {', '.join(self.labels[:-1])} and {self.labels[-1]} have"
        super().__init__(f"{what} just been taken. Please choose again.")


class SoldOut(BookingError):
    """Fewer seats are left than asked for. `left`: how many, at the moment of looking."""

    code = "sold_out"

    def __init__(self, left: int = 0) -> None:
        self.left = left
        if left == 0:
            message = "No places are left."
        elif left == 1:
            message = "Only one place is left."
        else:
            message = f"Only {left} places are left."
        super().__init__(message)


class HoldExpired(BookingError):
    code = "hold_expired"
    message = "The time to confirm ran out, and the seats were given back. Please choose again."


class WrongState(BookingError):
    code = "wrong_state"


class SlotClosed(BookingError):
    code = "slot_closed"
    message = "This can no longer be booked or changed."


class SlotGone(SlotClosed):
    """The slot has been deleted."""


class AccountGone(WrongState):
    """Somebody has deleted the account while it was booking."""

    message = (
        "Your account has just been deleted, so nothing was booked. Book as a guest, or log in "
        "with another account."
    )


class KeyReused(BookingError):
    code = "key_reused"
    message = "This idempotency key was used for another request. Use a new one."


class TooManyHolds(BookingError):
    code = "too_many_holds"
    message = "You are holding as many bookings as you may. Confirm or cancel one of them first."


class InvalidRequest(BookingError):
    """The request makes no sense whatever the state of the world: `message` says why."""

    code = "invalid"


class SlotBusy(BookingError):
    """Too many want the same at once, and waiting took too long. The outcome is: nothing."""

    code = "busy"
    message = "Very many people are booking right now. Please try again in a moment."


class SweeperRunning(Exception):
    """Another `expire_due` is at work."""


class BrokenInvariant(RuntimeError):
    """The database holds what must not be. Never repaired here: `check_invariants` tells more."""


class TooFew(Exception):
    """Fewer seats could be locked than were asked for; whether more are left is not said."""
