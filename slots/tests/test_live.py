"""What the hub of a web process reads, and what it sends to whom.

Over HTTP: booking_site/tests/test_live_server.py.
"""

import re
import socket
import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from booking_site.tests.factories import AppointmentFactory, SlotFactory, UserFactory
from booking_site.tests.races import lapse
from bookings import browser, lifecycle
from bookings.lifecycle import Holder
from bookings.models import Booking
from slots import inventory, live
from slots.live import BEAT, END, STALE, Hub, Viewer, make_event
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """One whose threads do not run: a test has it read by itself."""
    hub = Hub()
    hub.is_listening = hub._works = True
    monkeypatch.setattr(live, "hub", hub)
    return hub


def read(hub: Hub) -> None:
    hub.read(list(hub._watched.values()))


def watch(hub: Hub, *topics: tuple[str, int], holder: Holder | None = None) -> Viewer:
    """A viewer who has seen what there is now."""
    viewer = Viewer(
        topics,
        user_id=holder.user.pk if holder and holder.user else None,
        browser=holder.session_key if holder else "",
    )
    assert hub.join(viewer)
    read(hub)
    sent(viewer)
    return viewer


def sent(viewer: Viewer) -> list[bytes]:
    events = []
    while not viewer.inbox.empty():
        events.append(viewer.inbox.get_nowait())
    return events


def names(viewer: Viewer) -> list[str]:
    return [event.decode().partition("\n")[0] for event in sent(viewer)]


# ── Seats ─────────────────────────────────────────────────────────────────────────────────────────


def test_changed_seats_alone_are_sent_to_all_in_the_same_bytes(hub: Hub) -> None:
    slot = SlotFactory(rows=2, seats_per_row=3)
    first, second = (watch(hub, ("seats", slot.pk)) for _ in range(2))
    a1, a2, *_ = slot.seats.values_list("pk", flat=True)
    lifecycle.hold(slot, seat_ids=[a1, a2])
    read(hub)
    [event], [same] = sent(first), sent(second)
    assert event is same
    text = event.decode()
    assert text.startswith("event: seats\n")
    assert f'<template data-seats=",{a1},{a2},">' in text
    assert re.findall(r'id="seat-([^"]+)"', text) == ["{pk}", "count"]
    assert text.count('data-state="RESERVED"') == 1


def test_nothing_is_sent_when_nothing_is_seen_to_change(hub: Hub) -> None:
    slot = SlotFactory(rows=1)
    booking = lifecycle.hold(slot, quantity=1)
    viewer = watch(hub, ("seats", slot.pk))
    lifecycle.extend(booking)
    read(hub)
    assert sent(viewer) == []


def test_reading_costs_the_same_however_many_seats_change_and_watch(
    hub: Hub, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    halls = [SlotFactory(rows=2), SlotFactory(rows=3), SlotFactory(places=4)]
    for number in (1, 3):
        for hall in halls[:number]:
            watch(hub, ("seats", hall.pk))
            lifecycle.hold(hall, quantity=number)
        with django_assert_num_queries(2):
            read(hub)


def test_lapse_is_due_without_anybody_telling(hub: Hub, settings: object) -> None:
    settings.HOLD_SECONDS = 20
    slot = SlotFactory(rows=1)
    viewer = watch(hub, ("seats", slot.pk))
    booking = lifecycle.hold(slot, quantity=1)
    read(hub)
    [watched] = hub._watched.values()
    seconds = (booking.expires_at - timezone.now()).total_seconds()
    assert seconds < live.READ_ANYWAY
    assert watched.due_at - live.time.monotonic() == pytest.approx(seconds, abs=2)
    sent(viewer)
    lapse(booking)
    read(hub)
    assert names(viewer) == ["event: seats"]


@pytest.mark.parametrize("field", ["opens_at", "closes_at", "starts_at", "ends_at"])
def test_every_time_of_a_slot_is_due_by_itself(hub: Hub, field: str) -> None:
    now = timezone.now()
    times = {name: now + timedelta(hours=9 + n) for n, name in enumerate(("starts_at", "ends_at"))}
    slot = SlotFactory(rows=1, **times)
    if field in ("starts_at", "ends_at"):
        Slot.objects.filter(pk=slot.pk).update(starts_at=now - timedelta(hours=1))
    Slot.objects.filter(pk=slot.pk).update(**{field: Now() + timedelta(seconds=20)})
    watch(hub, ("seats", slot.pk))
    [watched] = hub._watched.values()
    assert watched.due_at - live.time.monotonic() == pytest.approx(20, abs=2)


def test_what_lapses_bit_by_bit_is_read_no_more_often_than_what_is_told(hub: Hub) -> None:
    slot, doctors = SlotFactory(rows=1), AppointmentFactory()
    topics = [("seats", slot.pk), ("left", slot.pk), ("doctor", doctors.doctor_id)]
    watch(hub, *topics)
    lifecycle.hold(slot, quantity=1)
    lifecycle.hold(doctors, quantity=1)
    soon = Now() + timedelta(seconds=0.05)
    Booking.objects.update(expires_at=soon)
    Seat.objects.filter(booking__isnull=False).update(held_until=soon)
    read(hub)
    for watched in hub._watched.values():
        assert watched.due_at >= watched.read_at + live.READ_EVERY
    for _ in range(2000):
        for watched in hub._watched.values():
            watched.viewers.add(Viewer([]))
    read(hub)
    for watched in hub._watched.values():
        watched.note_change()
        assert watched.due_at == watched.read_at + live.READ_AT_LEAST


def test_what_nobody_told_of_is_read_all_the_same(hub: Hub) -> None:
    """Of what a worker committed just before it was killed."""
    slot = AppointmentFactory()
    watch(hub, ("seats", slot.pk), ("left", slot.pk), ("doctor", slot.doctor_id))
    for watched in hub._watched.values():
        assert watched.due_at == watched.read_at + live.READ_ANYWAY


def change_times(slot: Slot) -> None:
    times = {"starts_at": slot.starts_at, "ends_at": slot.ends_at, "opens_at": None}
    inventory.change_slot(slot, **times, closes_at=slot.starts_at - timedelta(hours=1))


@pytest.mark.parametrize(
    "change",
    [
        lambda slot: inventory.add_rows(slot, rows=1, seats_per_row=2),
        lambda slot: inventory.remove_places(slot, places=1),
        lambda slot: lifecycle.cancel_slot(slot, actor="staff"),
        inventory.delete_slot,
        change_times,
    ],
    ids=["grown", "shrunk", "called off", "deleted", "other times"],
)
def test_what_no_fragment_can_show_makes_the_page_stale(hub: Hub, change: object) -> None:
    slot = SlotFactory(rows=1)
    viewer = watch(hub, ("seats", slot.pk))
    change(slot)
    read(hub)
    assert set(sent(viewer)) == {STALE}


@pytest.mark.parametrize("by", ["user", "browser"])
def test_own_seats_are_never_sent_as_somebody_elses(hub: Hub, by: str) -> None:
    slot = SlotFactory(rows=1)
    holder = Holder(user=UserFactory()) if by == "user" else Holder(session_key="browser")
    mine = watch(hub, ("seats", slot.pk), holder=holder)
    other = watch(hub, ("seats", slot.pk), holder=Holder(session_key="another"))
    booking = lifecycle.hold(slot, quantity=1, holder=holder)
    read(hub)
    assert (names(mine), names(other)) == (["event: stale"], ["event: seats"])
    lifecycle.hold(slot, quantity=1)
    read(hub)
    assert (names(mine), names(other)) == (["event: seats"], ["event: seats"])
    lifecycle.cancel(booking)
    read(hub)
    assert (names(mine), names(other)) == (["event: stale"], ["event: seats"])


def test_page_and_hub_agree_on_the_fingerprint(hub: Hub, client: Client) -> None:
    user = UserFactory()
    for slot in (SlotFactory(rows=2), SlotFactory(places=3)):
        lifecycle.hold(slot, quantity=1)
        lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
        for sign_in in (lambda: None, lambda: client.force_login(user)):
            sign_in()
            seen = client.get(f"/slots/{slot.pk}/").context["fingerprint"]
            response = client.get(f"/slots/{slot.pk}/live", {"seen": seen})
            [viewer] = hub._viewers
            read(hub)
            assert sent(viewer) == [BEAT]
            response.close()
        client.logout()


def test_who_shows_the_past_is_told_so(hub: Hub, client: Client) -> None:
    slot = SlotFactory(rows=1)
    watch(hub, ("seats", slot.pk))
    for headers in ({}, {"Last-Event-ID": "0123456789abcdef"}):
        response = client.get(f"/slots/{slot.pk}/live?seen=0123456789abcdef", headers=headers)
        [viewer] = [v for v in hub._viewers if v.seen]
        assert sent(viewer) == [BEAT, STALE]
        response.close()


# ── Lists and doctors ─────────────────────────────────────────────────────────────────────────────


def test_who_comes_while_a_list_is_drawn_is_told_what_it_was(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it cannot be drawn: the slot is not said to be gone."""
    slot = SlotFactory(places=20)
    watch(hub, ("left", slot.pk))
    before = hub._watched["left", slot.pk].last
    later = Viewer([("left", slot.pk)])

    def fail(_: object) -> str:
        assert hub.join(later)
        hub.greet(later)
        raise ZeroDivisionError

    monkeypatch.setattr(live.live_html, "left", fail)
    with pytest.raises(ZeroDivisionError):
        read(hub)
    assert names(later) == ["event: beat", "event: left"]
    assert hub._watched["left", slot.pk].last == before != ""


def test_list_hears_of_what_is_left_only_when_that_is_said_otherwise(hub: Hub) -> None:
    slot, other = SlotFactory(places=23), SlotFactory(places=5)
    viewer = watch(hub, ("left", slot.pk), ("left", other.pk))
    lifecycle.hold(slot, quantity=1)
    read(hub)
    assert sent(viewer) == []  # “Places free”, still
    lifecycle.hold(slot, quantity=3)
    read(hub)
    [event] = sent(viewer)
    assert event.startswith(b"event: left\n")
    assert f'id="left-{slot.pk}"'.encode() in event
    assert b"19 left" in event
    lifecycle.cancel_slot(other, actor="staff")
    read(hub)
    assert sent(viewer) == [STALE]


def test_long_list_hears_of_all_of_it_in_one_event(hub: Hub) -> None:
    slots = [SlotFactory(places=5) for _ in range(live.MOST_WAITING + 2)]
    viewer = Viewer([("left", slot.pk) for slot in slots])
    assert hub.join(viewer)
    hub.greet(viewer)
    read(hub)  # what has changed since the page was drawn is in what is first read
    beat, event = sent(viewer)
    assert (beat, event.count(b' id="left-')) == (BEAT, len(slots))
    later = Viewer([("left", slots[0].pk)])
    assert hub.join(later)
    hub.greet(later)
    assert names(later) == ["event: beat", "event: left"]
    for slot in slots:
        lifecycle.hold(slot, quantity=1)
    read(hub)
    [event] = sent(viewer)
    assert event.count(b"4 left") == len(slots)


def test_calendar_hears_of_times_that_are_taken_and_given_back(hub: Hub, settings: object) -> None:
    settings.HOLD_SECONDS = 20
    slot, elsewhere = AppointmentFactory(), AppointmentFactory()
    viewer = watch(hub, ("doctor", slot.doctor_id))
    lifecycle.hold(elsewhere, quantity=1)
    read(hub)
    assert sent(viewer) == []
    booking = lifecycle.hold(slot, quantity=1)
    read(hub)
    assert sent(viewer) == [STALE]
    [watched] = hub._watched.values()
    assert watched.due_at - live.time.monotonic() == pytest.approx(20, abs=2)
    lapse(booking)
    read(hub)
    assert sent(viewer) == [STALE]


def test_calendar_that_is_watched_already_greets_with_what_changed_meanwhile(
    hub: Hub, client: Client
) -> None:
    """Between the drawing of a page and its joining somebody took the time that it offers."""
    slot = AppointmentFactory()
    watch(hub, ("doctor", slot.doctor_id))
    lifecycle.hold(slot, quantity=1)
    read(hub)
    late = Viewer([("doctor", slot.doctor_id)])
    assert hub.join(late)
    hub.greet(late)
    assert sent(late) == [BEAT, STALE]


# ── Telling ───────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_told_of_what_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, told = AppointmentFactory(), []
    monkeypatch.setattr(live, "_notify", told.append)
    with transaction.atomic():
        live.tell(slot)
        transaction.set_rollback(True)
    assert told == []
    with transaction.atomic():
        live.tell(slot)
        assert told == []
    assert told == [[f"doctor={slot.doctor_id}&slot={slot.pk}"]]


def test_payloads_are_as_long_as_postgresql_takes() -> None:
    topics = {("doctor", 2**63 - n) for n in range(1, 2001)}
    payloads = live._payloads(topics)
    assert max(map(len, payloads)) < 8000
    heard = {(kind, int(pk)) for text in payloads for kind, pk in live.parse_qsl(text)}
    assert heard == topics


def test_commit_does_not_fail_when_telling_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(payloads: list[str]) -> None:
        raise live.DatabaseError("away")

    slot = SlotFactory()
    monkeypatch.setattr(live, "_notify", fail)
    assert lifecycle.hold(slot, quantity=1).is_new


def test_news_that_come_with_the_token_are_heard(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = SlotFactory(rows=1)
    watch(hub, ("seats", slot.pk))
    [watched] = hub._watched.values()
    notify = live._notify
    # In one commit, so in one packet.
    monkeypatch.setattr(live, "_notify", lambda tokens: notify([*tokens, f"slot={slot.pk}"]))
    own = connection.copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    own.connect()
    try:
        own.set_autocommit(True)
        own.connection.execute(f"LISTEN {live.CHANNEL}")
        assert hub._is_heard(own.connection)
    finally:
        own.close()
    assert watched.due_at <= watched.read_at + live.READ_AT_LEAST


def test_what_goes_on_for_ever_begins_again_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends = iter([ValueError("once"), SystemExit])
    monkeypatch.setattr(live.time, "sleep", lambda seconds: None)

    def work() -> None:
        raise next(ends)

    with pytest.raises(SystemExit):
        live._keep_on(work)
    assert "ValueError: once" in caplog.text


def test_where_no_news_arrive_there_are_no_streams(
    hub: Hub, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind PgBouncer: here what is told goes to a function that does nothing."""
    slot = SlotFactory(rows=1)
    viewer = watch(hub, ("seats", slot.pk))
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA deaf")
        cursor.execute(
            "CREATE FUNCTION deaf.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'"
        )
    try:
        connection.close()
        with monkeypatch.context() as patch:
            patch.setattr(live, "TEST_WAIT", 0.2)
            path = "-c search_path=deaf,pg_catalog,public"
            patch.setitem(connection.settings_dict["OPTIONS"], "options", path)
            hub._listen()
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA deaf CASCADE")
    assert sent(viewer) == [END]
    assert client.get(f"/slots/{slot.pk}/live").status_code == 204


# ── Viewers ───────────────────────────────────────────────────────────────────────────────────────


def test_slow_reader_is_told_once_and_let_go(hub: Hub) -> None:
    viewer = watch(hub, ("seats", SlotFactory(rows=1).pk))
    for number in range(live.MOST_WAITING + 1):
        viewer.send(make_event("seats", str(number)))
    assert sent(viewer) == [STALE, END]


def test_limits_of_an_address_and_of_the_process(hub: Hub, settings: object) -> None:
    settings.STREAMS_PER_ADDRESS = 2
    viewers = [Viewer([("left", 1)], address=address) for address in "aaab"]
    assert [hub.join(viewer) for viewer in viewers] == [True, True, False, True]
    hub.leave(viewers[0])
    assert hub.join(viewers[2])
    hub.most = 3
    assert not hub.join(Viewer([("left", 1)], address="c"))
    settings.STREAMS_PER_ADDRESS, hub.most = 0, 10
    assert hub.join(Viewer([("left", 1)], address="a"))
    for viewer in list(hub._viewers):
        hub.leave(viewer)
    assert (hub._watched, hub._of_address) == ({}, {})


def test_stopping_ends_streams_and_begins_none(hub: Hub, client: Client) -> None:
    slot = SlotFactory()
    response = client.get(f"/live?slot={slot.pk}")
    hub.stop()
    assert b"".join(response.streaming_content) == BEAT
    assert hub._viewers == set()
    assert client.get(f"/live?slot={slot.pk}").status_code == 204


def test_stopping_ends_also_what_a_slow_reader_is_being_sent(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)  # as of a request; a stream gives up no send by itself
    viewer = Viewer([("left", 1)], client=ours)
    assert hub.join(viewer)
    viewer.send(b"x" * 10_000_000)
    failures = []

    def send() -> None:
        try:
            for event in live.Stream(viewer):
                ours.sendall(event)
        except OSError as error:
            failures.append(type(error))

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    assert theirs.recv(1) == b"x"
    assert ours.gettimeout() is None
    monkeypatch.setattr(live.stop_signal, "is_stopping", lambda: True)
    hub._turns = iter([0])
    hub._beat()  # for one second
    sending.join(5)
    assert (sending.is_alive(), failures) == (False, [BrokenPipeError])
    theirs.close()
    ours.close()


# ── Addresses ─────────────────────────────────────────────────────────────────────────────────────


def test_stream_is_kept_by_nobody_and_sets_no_cookie(hub: Hub, client: Client) -> None:
    response = client.get(f"/slots/{SlotFactory().pk}/live")
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-store"
    assert response["X-Accel-Buffering"] == "no"
    assert response.cookies == {}
    response.close()


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "Say what to watch, like slot=12 or doctor=7."),
        ("slot=x", "“slot” must be a number, like slot=12."),
        ("slot=1&doctor=-7", "“doctor” must be a number, like doctor=12."),
        ("slot=²", "“slot” must be a number, like slot=12."),
        (
            "&".join(f"slot={n}" for n in range(101)),
            "At most 100 slots and doctors can be watched at once.",
        ),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    hub: Hub, client: Client, query: str, sentence: str
) -> None:
    response = client.get(f"/live?{query}")
    assert (response.status_code, response.content.decode()) == (400, sentence)
    assert hub._viewers == set()


def test_slots_without_news(hub: Hub, client: Client) -> None:
    gone, over = SlotFactory(cancelled_at=timezone.now()), SlotFactory()
    past = timezone.now() - timedelta(days=2)
    Slot.objects.filter(pk=over.pk).update(starts_at=past, ends_at=past + timedelta(hours=1))
    assert client.get("/slots/999999999/live").status_code == 404
    assert client.get(f"/slots/{gone.pk}/live").status_code == 204
    assert client.get(f"/slots/{over.pk}/live").status_code == 204
    assert client.post(f"/slots/{over.pk}/live").status_code == 405
    assert client.head("/live?slot=1").status_code == 405


def test_browser_with_a_key_is_known(hub: Hub, client: Client) -> None:
    slot = SlotFactory(rows=1)
    client.post(f"/slots/{slot.pk}/hold", {"seat": slot.seats.first().pk, "key": "a" * 32})
    assert browser.COOKIE in client.cookies
    response = client.get(f"/slots/{slot.pk}/live")
    [viewer] = hub._viewers
    assert viewer.own == {slot.seats.first().pk}
    response.close()
