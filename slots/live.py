"""Live seats: every open page hears of what anybody changed, in whatever process, on whatever host.

    lifecycle, inventory ── tell ──► NOTIFY ──► in each web process the Hub: it reads what changed
    once, draws it once, and hands the same bytes to all who watch

`tell` sends after the commit: a NOTIFY within it would make all commits of the database take turns.
A web process collects what it tells and sends it some times a second; others send at once. How what
changed is read is in `pictures`, how it is drawn in `live_html`.

Each web process has one Hub, and of that one connection that listens, apart from the pool. A stream
costs no connection. What changes by time alone (a hold lapses, booking opens) the hub knows
beforehand. Where LISTEN is not to be had, as behind PgBouncer, there are no streams: pages ask
again by themselves.
"""

import logging
import math
import secrets
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from booking_site import stop_signal
from slots import live_html, pictures
from slots.models import Seat, Slot
from slots.pictures import Picture

logger = logging.getLogger("holdfast.live")

CHANNEL = "holdfast_live"
TELL_EVERY = 0.1  # seconds, at most, in a web process
MOST_BYTES = 7900  # of one NOTIFY; PostgreSQL takes 7,999
BEAT_EVERY = 15  # seconds
READ_EVERY = 0.1  # seconds, at most, of one slot
READ_AT_LEAST = 0.7  # seconds after a change
READ_ANYWAY = 30  # seconds; a worker that is killed has told nothing of what it committed last
RETRY_EVERY = 60  # seconds, where LISTEN does not work
TEST_EVERY = 30  # seconds without news, until the listening connection is tried
TEST_WAIT = 5  # seconds for the answer
MOST_WAITING = 8  # events for one who is slow to read them

# What can be watched: the seats of a slot, how many are left of it, the free times of a doctor.
Topic = tuple[str, int]


# ── Telling ───────────────────────────────────────────────────────────────────────────────────────


def tell(*slots: Slot) -> None:
    """Something of these slots has changed. Those who watch hear of it when it is committed.

    In a web process no query; elsewhere one, after the commit.
    """
    topics = {("slot", slot.pk) for slot in slots}
    topics |= {("doctor", slot.doctor_id) for slot in slots if slot.doctor_id}
    if connection.in_atomic_block:
        transaction.on_commit(partial(_outbox.put, topics))
    else:
        _outbox.put(topics)


def _payloads(topics: Iterable[Topic]) -> list[str]:
    """The topics as NOTIFY takes them: `slot=1&slot=2&doctor=7`, in pieces it has room for."""
    most = MOST_BYTES // len("doctor=9223372036854775807&")
    ordered = sorted(topics)
    return [urlencode(ordered[n : n + most]) for n in range(0, len(ordered), most)]


def _notify(payloads: list[str]) -> None:
    """One query, and what comes with its connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload", [CHANNEL, payloads]
        )


class _Outbox:
    """What is to be told: in a web process by a writer of its own, elsewhere at once."""

    def __init__(self) -> None:
        self._topics: set[Topic] = set()
        self._has_some = threading.Event()
        self.has_writer = False

    def put(self, topics: Collection[Topic]) -> None:
        if self.has_writer:
            self._topics.update(topics)
            self._has_some.set()
        elif topics:
            try:
                _notify(_payloads(topics))
            except DatabaseError:  # what was to be told is committed: it has not failed
                logger.warning("news could not be told", exc_info=True)

    def write_for_ever(self) -> None:
        self.has_writer = True
        while True:
            self._has_some.wait()
            self._has_some.clear()
            topics, self._topics = self._topics, set()
            try:
                _notify(_payloads(topics))
            except Exception:  # whatever it is: it is told when the database is back
                logger.warning("news could not be told yet", exc_info=True)
                self.put(topics)
                time.sleep(1)
            finally:
                connection.close()
            time.sleep(TELL_EVERY)


_outbox = _Outbox()


# ── Those who watch ───────────────────────────────────────────────────────────────────────────────


def make_event(name: str, data: str = "", id: str = "") -> bytes:
    """An event as it is sent. An id is remembered by the browser, and sent when it comes back."""
    lines = [f"event: {name}", *(f"data: {line}" for line in data.splitlines() or [""])]
    lines += [f"id: {id}"] if id else []
    return "\n".join([*lines, "", ""]).encode()


BEAT = make_event("beat")
STALE = make_event("stale")
END = b""


class Viewer:
    """An open page: what it watches, and what waits to be sent to it.

    `seen`: the fingerprint of what it shows. `user_id` and `browser`: whose seats are its `own`;
    `mine`: what is added to the fingerprint for these.
    """

    __slots__ = (
        *("address", "browser", "client", "inbox", "is_late", "mine", "own", "seen", "topics"),
        "user_id",
    )

    def __init__(
        self,
        topics: Collection[Topic],
        *,
        seen: str = "",
        user_id: int | None = None,
        browser: str = "",
        address: str = "",
        client: socket.socket | None = None,
    ) -> None:
        self.topics = topics
        self.seen = seen
        self.user_id = user_id
        self.browser = browser
        self.own: set[int] = set()
        self.mine = ""
        self.address = address
        self.client = client
        self.is_late = False  # when its last beat was due it had not taken all there was
        self.inbox: SimpleQueue[bytes] = SimpleQueue()

    @property
    def is_known(self) -> bool:
        return bool(self.user_id or self.browser)

    def owns(self, user_id: int | None, browser: str) -> bool:
        """Whether a booking of that user, or of a guest in that browser, is the viewer's."""
        if user_id is not None:
            return user_id == self.user_id
        return bool(browser) and browser == self.browser

    def send(self, event: bytes) -> None:
        """Never waits. Who does not keep up is told once that it is out of date, and let go."""
        if self.inbox.qsize() < MOST_WAITING:
            self.inbox.put(event)
            return
        while not self.inbox.empty():
            self.inbox.get_nowait()
        self.inbox.put(STALE)
        self.inbox.put(END)

    def wait_for_reader(self) -> None:
        """From now on no send gives up by itself, which gunicorn would log as an error: beats see
        who does not read."""
        with suppress(OSError):
            if self.client:
                self.client.settimeout(None)

    def is_gone(self) -> bool:
        """Whether the browser has closed its end, as far as the kernel of this machine says."""
        with suppress(OSError, AttributeError):  # of a Unix socket, or on another system
            if self.client:
                state = self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                return state != 1  # ESTABLISHED
        return False

    def cut(self) -> None:
        """Ends it, also a send that waits for the reader."""
        self.send(END)
        self.end_connection(socket.SHUT_RDWR)

    def end_connection(self, how: int = socket.SHUT_RD) -> None:
        with suppress(OSError):
            if self.client:
                self.client.shutdown(how)


class _Watched:
    """A topic, who watches it, what they were sent last, and when it is to be read again."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.viewers: set[Viewer] = set()
        self.last: Any = None
        self.due_at = 0.0  # time.monotonic()
        self.read_at = 0.0
        self.cost = 0.0  # seconds

    @property
    def _rested_at(self) -> float:
        """From when on it may be read again, for that many viewers, or so large a hall."""
        # Of a process some 12 % may go into telling crowds, a tenth into reading large halls. Yet
        # never longer than READ_AT_LEAST: the time it took is also that of a busy machine.
        wished = max(READ_EVERY, len(self.viewers) / 1500, 10 * self.cost)
        return self.read_at + min(wished, READ_AT_LEAST)

    def note_change(self) -> None:
        self.due_at = min(self.due_at, self._rested_at)

    def note_coming(self, seconds: float) -> None:
        """By then time alone changes it."""
        self.due_at = min(self.due_at, time.monotonic() + seconds)

    def note_read(self, cost: float) -> None:
        """It is due again when time alone changes it, or after READ_ANYWAY; not before its rest."""
        self.read_at, self.cost = time.monotonic(), cost
        self.due_at = max(min(self.due_at, self.read_at + READ_ANYWAY), self._rested_at)


class Hub:
    """Of one process all who watch, and what they watch."""

    def __init__(self) -> None:
        self.is_listening = False  # and news arrive
        self.is_stopping = False
        self.most = 800  # streams in this process
        self._works = False  # until it is started; then as long as nothing tells otherwise
        self._lock = threading.Lock()
        self._watched: dict[Topic, _Watched] = {}
        self._viewers: set[Viewer] = set()
        self._of_address: Counter[str] = Counter()
        self._wake = threading.Event()
        self._turns = cycle(range(BEAT_EVERY))

    def start(self) -> None:
        """To be called once, after the process has forked."""
        self._works = True
        works = (_outbox.write_for_ever, self._listen_for_ever, self._read_for_ever, self._beat)
        for work in works:
            threading.Thread(target=_keep_on, args=(work,), name="live", daemon=True).start()

    def stop(self) -> None:
        """Ends all streams; there are no new ones. Called again, cuts those that have not ended."""
        was_stopping, self.is_stopping = self.is_stopping, True
        for viewer in list(self._viewers):
            if was_stopping:
                viewer.cut()
            else:
                viewer.send(END)

    # Viewers

    def join(self, viewer: Viewer) -> bool:
        """From now on the viewer is sent news; False if there is no room, or no news to be had."""
        with self._lock:
            most = settings.STREAMS_PER_ADDRESS
            if not self._works or self.is_stopping or len(self._viewers) >= self.most:
                return False
            if most and viewer.address and self._of_address[viewer.address] >= most:
                return False
            self._viewers.add(viewer)
            self._of_address[viewer.address] += 1
            for topic in viewer.topics:
                self._watched.setdefault(topic, _Watched(topic)).viewers.add(viewer)
        return True

    def leave(self, viewer: Viewer) -> None:
        with self._lock:
            if viewer not in self._viewers:
                return
            self._viewers.discard(viewer)
            self._of_address[viewer.address] -= 1
            if not self._of_address[viewer.address]:
                del self._of_address[viewer.address]
            for topic in viewer.topics:
                watched = self._watched[topic]
                watched.viewers.discard(viewer)
                if not watched.viewers:
                    del self._watched[topic]

    def greet(self, viewer: Viewer) -> None:
        """Sends the beat that says that it has begun; a page that shows the past is told so."""
        if self.is_listening:
            viewer.send(BEAT)
        said: dict[int, str] = {}
        for topic in viewer.topics:
            watched = self._watched[topic]
            if watched.last is None:
                self._wake.set()
            elif topic[0] == "left":
                said[topic[1]] = watched.last
            elif topic[0] == "doctor" or not _is_up_to_date(viewer, watched.last):
                viewer.send(STALE)  # what a calendar shows, it does not say
        if said:
            viewer.send(_left_event(viewer, said))

    # Listening

    def note(self, topics: Iterable[Topic]) -> None:
        """Has what changed read again, if anybody watches it."""
        for kind, pk in topics:
            for topic in ((kind, pk),) if kind == "doctor" else (("seats", pk), ("left", pk)):
                if watched := self._watched.get(topic):
                    watched.note_change()
        self._wake.set()

    def _listen_for_ever(self) -> None:
        pause = 0.0
        while True:
            time.sleep(pause)
            try:
                self._listen()
                pause = RETRY_EVERY
            except Exception as error:  # whatever it is: it is tried again
                logger.warning("listening: %s", str(error).strip().partition("\n")[0])
                # At once, if it was well until now.
                pause = 0.2 if self.is_listening else min(max(2 * pause, 0.2), 10)
            finally:
                self.is_listening = False
                connection.close()

    def _listen(self) -> None:
        """Listens on a connection of its own until it is lost; returns if no news come that way."""
        own = connection.copy()
        own.settings_dict["OPTIONS"].pop("pool", None)
        own.connect()
        try:
            own.set_autocommit(True)
            listening = own.connection
            listening.execute(f"LISTEN {CHANNEL}")
            while self._is_heard(listening):
                if not self.is_listening:
                    self._resume()
                while heard := list(listening.notifies(timeout=TEST_EVERY, stop_after=1)):
                    for notification in heard:
                        self._hear(notification)
        finally:
            own.close()
        self._works = False
        logger.warning("LISTEN does not work here, so pages ask for news instead.")
        for viewer in list(self._viewers):
            viewer.send(END)

    def _resume(self) -> None:
        """What may have changed unheard is read again."""
        self.is_listening = self._works = True
        for viewer in list(self._viewers):
            viewer.send(BEAT)
        for watched in list(self._watched.values()):
            watched.note_change()
        self._wake.set()

    def _hear(self, notification: Any) -> None:
        self.note((kind, int(pk)) for kind, pk in parse_qsl(notification.payload) if kind != "test")

    def _is_heard(self, listening: Any) -> bool:
        """Whether what is told on another connection is heard on this one."""
        token = f"test={secrets.token_hex(8)}"
        _notify([token])
        connection.close()
        until = time.monotonic() + TEST_WAIT
        is_heard = False
        while not is_heard and (left := until - time.monotonic()) > 0:
            # To its end: what came with it would be lost.
            for notification in listening.notifies(timeout=left, stop_after=1):
                is_heard |= notification.payload == token
                self._hear(notification)
        return is_heard

    # Reading

    def _read_for_ever(self) -> None:
        while True:
            now = time.monotonic()
            soonest = min((w.due_at for w in list(self._watched.values())), default=math.inf)
            self._wake.wait(min(max(soonest - now, 0), 3600) if soonest > now else 0)
            self._wake.clear()
            due = [w for w in list(self._watched.values()) if w.due_at <= time.monotonic()]
            try:
                self.read(due)
            except Exception as error:
                logger.warning("news: %s", str(error).strip().partition("\n")[0])
                for watched in due:
                    watched.due_at = time.monotonic() + 1
            finally:
                connection.close()

    def read(self, due: Collection[_Watched]) -> None:
        """Reads what these topics are now, and sends to those who watch what has changed."""
        by_kind: defaultdict[str, dict[int, _Watched]] = defaultdict(dict)
        for watched in due:
            kind, pk = watched.topic
            by_kind[kind][pk] = watched
            watched.due_at = math.inf
        for kind, renew in (
            ("seats", _renew_seats),
            ("left", _renew_left),
            ("doctor", _renew_times),
        ):
            if some := by_kind[kind]:
                started = time.monotonic()
                renew(some)
                cost = (time.monotonic() - started) / len(some)
                for watched in some.values():
                    watched.note_read(cost)

    # Beats

    def _beat(self) -> None:
        """A beat for each viewer every BEAT_EVERY seconds, some of them each second."""
        for turn in self._turns:
            for _ in range(5):
                time.sleep(0.2)
                if stop_signal.is_stopping():
                    self.stop()
            for viewer in list(self._viewers):
                if viewer.is_gone():
                    viewer.cut()
            for viewer in [v for v in list(self._viewers) if id(v) // 16 % BEAT_EVERY == turn]:
                has_more = not viewer.inbox.empty()
                if has_more and viewer.is_late:
                    viewer.cut()
                elif self.is_listening and not has_more:
                    viewer.send(BEAT)
                viewer.is_late = has_more


def _keep_on(work: Callable[[], None]) -> None:
    """What is to go on for ever begins again when it fails."""
    while True:
        try:
            work()
        except Exception:
            logger.exception("live")
            time.sleep(1)


hub = Hub()


class Stream:
    """What is sent to a viewer who has joined. Waits, and nothing else; leaves when it is closed,
    also before anything was sent."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer

    def __iter__(self) -> Iterator[bytes]:
        self.viewer.wait_for_reader()
        return iter(self.viewer.inbox.get, END)

    def close(self) -> None:
        """Ends the connection, too, which else would be waited on for another request."""
        hub.leave(self.viewer)
        self.viewer.end_connection()


def _is_up_to_date(viewer: Viewer, picture: Picture) -> bool:
    return viewer.seen == picture.fingerprint + viewer.mine


def _renew_seats(some: dict[int, _Watched]) -> None:
    """The seats of these slots. Queries as of `of_slots`, and one for each slot whose changes may
    concern one of its viewers more than others."""
    found = pictures.of_slots({pk: watched.last for pk, watched in some.items()})
    for pk, watched in some.items():
        if pk not in found:
            _send(watched.viewers, STALE)
            continue
        before, after = watched.last, found[pk]
        watched.last = after
        watched.note_coming(after.lasts)
        if before is None:
            _send([v for v in watched.viewers if not _is_up_to_date(v, after)], STALE)
        elif before.fingerprint != after.fingerprint:
            _send_changes(watched, before, after)


def _send_changes(watched: _Watched, before: Picture, after: Picture) -> None:
    """The same bytes to all; but who has to do with it asks for a page of their own."""
    if not after.has_same_plan(before):
        _send(watched.viewers, STALE)
        return
    viewers = set(watched.viewers)
    concerned = _concerned(viewers, [seat.pk for seat in after.changed_since(before)])
    _send(concerned, STALE)
    html = live_html.changes(after.slot, before, after)
    _send(viewers - concerned, make_event("seats", html, after.fingerprint))


def _concerned(viewers: Iterable[Viewer], changed: Collection[int]) -> set[Viewer]:
    """Whose seats some of the changed ones are, or were. A query, if there are known viewers."""
    known = [viewer for viewer in viewers if viewer.is_known]
    if not (known and changed):
        return set()
    owners = Seat.objects.filter(pk__in=changed, booking__isnull=False).order_by()
    found = list(owners.values_list("pk", "booking__user_id", "booking__session_key"))
    concerned = set()
    for viewer in known:
        now = {pk for pk, *owner in found if viewer.owns(*owner)}
        if now or not viewer.own.isdisjoint(changed):
            concerned.add(viewer)
            viewer.own = viewer.own.difference(changed) | now
    return concerned


def _renew_left(some: dict[int, _Watched]) -> None:
    """How many are left of these slots, as lists say it."""
    found = pictures.of_lists(some)
    fresh: dict[int, str] = {}
    for pk, watched in some.items():
        text = ""
        if pk in found:
            slot, lasts = found[pk]
            text = live_html.left([slot])
            watched.note_coming(lasts)
        before, watched.last = watched.last, text
        if before != text:
            fresh[pk] = text
    for viewer in {viewer for pk in fresh for viewer in some[pk].viewers}:
        viewer.send(_left_event(viewer, fresh))


def _left_event(viewer: Viewer, said: dict[int, str]) -> bytes:
    """One event, however long the list: what is said of its slots, or that some are no more."""
    texts = [said[pk] for kind, pk in viewer.topics if kind == "left" and pk in said]
    return make_event("left", "".join(texts)) if all(texts) else STALE


def _renew_times(some: dict[int, _Watched]) -> None:
    """The free times of these doctors. Also at first: they may have changed since the page was
    drawn."""
    told: set[Viewer] = set()
    for pk, (times, lasts) in pictures.of_calendars(some).items():
        watched = some[pk]
        before, watched.last = watched.last, times
        if before != times:
            told |= watched.viewers
        watched.note_coming(lasts)
    _send(told, STALE)


def _send(viewers: Iterable[Viewer], event: bytes) -> None:
    for viewer in list(viewers):
        viewer.send(event)
