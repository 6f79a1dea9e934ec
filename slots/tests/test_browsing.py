"""Finding doctors and shows: filters in the address, weeks, and the clocks of the venues."""

import re
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.utils import timezone

from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
)
from bookings import lifecycle
from slots.models import Doctor, Show, Slot
from slots.tests.test_views import get, text_of

pytestmark = pytest.mark.django_db(transaction=True)

BERLIN = ZoneInfo("Europe/Berlin")
YEAR = timezone.now().year + 1


def names(html: str) -> list[str]:
    """The doctors or shows in a list, in its order."""
    return re.findall(r"<h3><a [^>]*>([^<]+)</a></h3>", html)


def found(html: str) -> str:
    """What is announced of a list."""
    return text_of(re.search(r'<p id="found" role="status">(.*?)</p>', html, re.S)[1])


def errors(html: str) -> dict[str, str]:
    """What is said beside a field: its name → the sentence."""
    said = re.findall(r'<ul class="errorlist" id="id_(\w+)_error"><li>(.*?)</li>', html)
    return {name: sentence.replace("&#x27;", "'") for name, sentence in said}


def days(html: str) -> dict[str, list[str]]:
    """The week on a doctor's page: day → the times."""
    week = re.findall(r'<section class="day.*?</section>', html, re.S)
    return {
        re.search(r'datetime="([-\d]+)"', day)[1]: re.findall(r"<b>([^<]+)</b>", day)
        for day in week
    }


def starts(html: str) -> list[str]:
    """The exact times of a doctor's page."""
    return re.findall(r'class="time".*?datetime="([^"]+)"', html)


def last_sunday(month: int) -> date:
    """Of next year: when the clocks change in Berlin."""
    end = date(YEAR, month, 31)
    return end - timedelta(days=(end.weekday() + 1) % 7)


SUMMER, WINTER = last_sunday(3), last_sunday(10)  # from then on


def utc(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo("UTC"))


# ── The search ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("müller", ["Dr. Jörg Müller"]),
        ("MULLER jorg", ["Dr. Jörg Müller"]),
        ("mu\u0308ller", ["Dr. Jörg Müller"]),
        ("łukasz", ["Dr. Lukasz Groß"]),
        ("GROSS", ["Dr. Lukasz Groß"]),
        ("derma", ["Dr. Émile 100% Søn", "Dr. Lukasz Groß"]),
        ("derma, emile", ["Dr. Émile 100% Søn"]),
        ("son", ["Dr. Émile 100% Søn"]),
        ("%", ["Dr. Émile 100% Søn"]),
        ("_", []),
        ("\\", []),
        ("müller derma", []),
        ("mullerophtha", []),
        ("'; DROP TABLE slots_doctor; --", []),
        ("   ", ["Dr. Émile 100% Søn", "Dr. Jörg Müller", "Dr. Lukasz Groß"]),
    ],
)
def test_doctors_are_found_by_words_whatever_case_and_accents(
    client: Client, words: str, expected: list[str]
) -> None:
    DoctorFactory(name="Dr. Jörg Müller", specialization="Ophthalmology")
    DoctorFactory(name="Dr. Émile 100% Søn", specialization="Dermatology")
    DoctorFactory(name="Dr. Lukasz Groß", specialization="Dermatology")
    html = get(client, f"/doctors/?sort=name&q={quote(words)}")
    assert sorted(names(html)) == sorted(expected)
    assert found(html).split()[0] == str(len(expected))


def test_shows_are_found_by_name_venue_and_description(client: Client) -> None:
    ShowFactory(name="Hamlet", venue="Old Theatre", description="A prince, a ghost")
    ShowFactory(name="Ghosts", venue="Studio", description="Ibsen")
    ShowFactory(name="Cats", venue="Ghost House", description="")
    ShowFactory(name="Dogs", venue="Studio", description="")
    assert names(get(client, "/shows/?q=ghost")) == ["Cats", "Ghosts", "Hamlet"]
    assert names(get(client, "/shows/?q=ghost+studio")) == ["Ghosts"]
    assert names(get(client, "/shows/?q=ghost&venue=Ghost+House")) == ["Cats"]


def test_doctors_are_filtered_by_specialization_that_exists(client: Client) -> None:
    for name, specialization in [("A", "Cardiology"), ("B", "Ear, nose & throat"), ("C", "")]:
        DoctorFactory(name=name, specialization=specialization)
    html = get(client, "/doctors/?specialization=Ear%2C+nose+%26+throat")
    assert names(html) == ["B"]
    assert found(html) == "1 doctor found."
    options = re.findall(r'<option value="([^"]*)"( selected)?>', html)
    assert options[:3] == [
        ("", ""),
        ("Cardiology", ""),
        ("Ear, nose &amp; throat", " selected"),
    ]


def test_doctors_come_by_their_next_free_time_or_by_name(client: Client) -> None:
    now = timezone.now()
    for name, day in [("Late", 3), ("Early", 1), ("Mid", 2)]:
        AppointmentFactory(doctor__name=name, starts_at=now + timedelta(days=day))
    DoctorFactory(name="Away")
    assert names(get(client, "/doctors/")) == ["Early", "Mid", "Late", "Away"]
    assert names(get(client, "/doctors/?sort=name")) == ["Away", "Early", "Late", "Mid"]


def test_doctors_show_their_next_four_free_times_only(client: Client) -> None:
    doctor = DoctorFactory()
    start = timezone.now() + timedelta(days=1)
    slots = [
        AppointmentFactory(doctor=doctor, starts_at=start + timedelta(hours=n)) for n in range(7)
    ]
    lifecycle.hold(slots[1], quantity=1)
    html = get(client, "/doctors/")
    free = [slots[0], *slots[2:5]]
    assert re.findall(r'href="/slots/(\d+)/"', html) == [str(slot.pk) for slot in free]


# ── What cannot be read ───────────────────────────────────────────────────────────────────────────

UNREADABLE_DAYS = {
    "nonsense": "“nonsense” is no day that can be read. Write it like 2027-03-28.",
    "2027-02-30": "“2027-02-30” is no day that can be read. Write it like 2027-03-28.",
    "28.03.2027": "“28.03.2027” is no day that can be read. Write it like 2027-03-28.",
    "0000-01-01": "“0000-01-01” is no day that can be read. Write it like 2027-03-28.",
    "10000-01-01": "“10000-01-01” is no day that can be read. Write it like 2027-03-28.",
    "0001-01-01": "Choose a day from 2000 to 2999.",
    "9999-12-31": "Choose a day from 2000 to 2999.",
    "%00": "“\x00” is no day that can be read. Write it like 2027-03-28.",
    "9" * 10_000: f"“{'9' * 20}” is no day that can be read. Write it like 2027-03-28.",
}


@pytest.mark.parametrize("value", UNREADABLE_DAYS)
@pytest.mark.parametrize(
    ("path", "field"),
    [("/doctors/", "on"), ("/shows/", "from"), ("/shows/", "to"), ("show", "from"), ("show", "to")],
)
def test_day_that_cannot_be_read_is_said_and_left_out(
    client: Client, path: str, field: str, value: str
) -> None:
    slot = SlotFactory(show__name="Encore")
    AppointmentFactory(doctor__name="Dr. Free")
    url = slot.show.get_absolute_url() if path == "show" else path
    html = get(client, f"{url}?{field}={value}")
    assert errors(html) == {field: UNREADABLE_DAYS[value]}
    assert found(html).endswith("What could not be read was left out: see above.")
    assert found(html).startswith("1 ")
    assert "<details" in html
    assert re.search(r"<details[^>]* open>", html)


@pytest.mark.parametrize("value", UNREADABLE_DAYS)
def test_week_that_cannot_be_read_is_said_and_this_one_shown(client: Client, value: str) -> None:
    doctor = AppointmentFactory().doctor
    html = get(client, f"{doctor.get_absolute_url()}?from={value}")
    assert errors(html) == {"from": UNREADABLE_DAYS[value]}
    assert next(iter(days(html))) == str(timezone.now().astimezone(BERLIN).date())


@pytest.mark.parametrize(
    ("url", "field", "sentence"),
    [
        ("/doctors/?q=%00", "q", "Null characters are not allowed."),
        ("/shows/?q=a%00b", "q", "Null characters are not allowed."),
        (
            f"/doctors/?q={'x' * 10_000}",
            "q",
            "Search for something shorter: at most 100 characters.",
        ),
        ("/doctors/?q=1+2+3+4+5+6+7+8+9", "q", "Search for at most 8 words."),
        (
            "/doctors/?specialization=Alchemy",
            "specialization",
            "No doctor here has this specialization. Choose one of the list.",
        ),
        (
            "/doctors/?specialization=%00",
            "specialization",
            "No doctor here has this specialization. Choose one of the list.",
        ),
        (
            "/doctors/?sort=price",
            "sort",
            "This order is not known. Choose one of the list.",
        ),
        (
            "/shows/?venue=Atlantis",
            "venue",
            "There are no shows at this venue. Choose one of the list.",
        ),
        ("/doctors/?on=2020-01-01", "on", "This day is past. Choose a later one."),
        ("/shows/?to=2020-01-01", "to", "This day is past. Choose a later one."),
        (
            f"/shows/?from={YEAR}-05-02&to={YEAR}-05-01",
            "to",
            "The last day is before the first one. Choose a later one.",
        ),
    ],
)
def test_filter_that_makes_no_sense_is_said_and_left_out(
    client: Client, url: str, field: str, sentence: str
) -> None:
    SlotFactory(starts_at=utc(date(YEAR, 5, 3), 12))
    AppointmentFactory()
    html = get(client, url)
    assert errors(html) == {field: sentence}
    assert re.search(rf'id="id_{field}"[^>]*aria-invalid="true"', html) or re.search(
        rf'aria-invalid="true"[^>]*id="id_{field}"', html
    )
    assert found(html).startswith("1 ")


@pytest.mark.parametrize("path", ["/doctors/", "/shows/"])
def test_what_is_good_counts_beside_what_is_not(client: Client, path: str) -> None:
    AppointmentFactory(doctor__name="One")
    AppointmentFactory(doctor__name="Two")
    SlotFactory(show__name="One")
    SlotFactory(show__name="Two")
    html = get(client, f"{path}?q=two&on=x&from=x&unknown=1&unknown=2")
    assert names(html) == ["Two"]


def test_what_was_typed_stays_in_the_form_and_does_no_harm(client: Client) -> None:
    typed = '"><script>alert(1)</script> 🩺 \u202e'
    html = get(client, f"/doctors/?q={quote(typed)}")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 🩺 \u202e" in html
    assert get(client, "/doctors/?q=%ED%A0%80%FF").count("\ufffd") > 0


# ── Pages, and nothing ────────────────────────────────────────────────────────────────────────────


def test_pages_keep_the_filters(client: Client) -> None:
    DoctorFactory.create_batch(26, specialization="Eyes & ears")
    DoctorFactory(specialization="Noses")
    html = get(client, "/doctors/?q=example&specialization=Eyes+%26+ears&page=1&sort=name")
    link = re.search(r'<a class="button quiet" rel="next" href="([^"]+)">Next</a>', html)[1]
    assert link == "?q=example&amp;specialization=Eyes+%26+ears&amp;page=2&amp;sort=name"
    html = get(client, "/doctors/" + link.replace("&amp;", "&"))
    assert len(names(html)) == 2
    assert found(html) == "26 doctors found."
    assert "Page 2 of 2" in html
    assert ">Previous</a>" in html


def test_dates_of_a_show_are_earlier_and_later(client: Client) -> None:
    show = ShowFactory()
    for n in range(41):
        SlotFactory(show=show, places=1, starts_at=timezone.now() + timedelta(days=n + 1))
    html = get(client, f"{show.get_absolute_url()}?available=on")
    link = re.search(r'rel="next" href="([^"]+)">Later</a>', html)[1]
    assert link == "?available=on&amp;page=2"
    assert ">Earlier</a>" in get(client, f"{show.get_absolute_url()}?available=on&page=2")


@pytest.mark.parametrize("path", ["/doctors/", "/shows/"])
def test_nothing_at_all_and_nothing_found_are_said_differently(client: Client, path: str) -> None:
    nothing = get(client, path)
    assert "Remove the filters" not in nothing
    assert found(nothing).startswith("0 ")
    DoctorFactory()
    ShowFactory()
    html = get(client, f"{path}?q=nobody")
    assert names(html) == []
    assert f'<a class="button quiet" href="{path}">Remove the filters</a>' in html
    assert ("There are no doctors here yet" in nothing) == (path == "/doctors/")


def test_nobody_free_on_a_day_names_the_day(client: Client) -> None:
    DoctorFactory()
    html = get(client, f"/doctors/?on={YEAR}-05-03")
    assert "is free on" in html
    assert f"3 May {YEAR}" in html


def test_home_searches_doctors_and_shows(client: Client) -> None:
    html = get(client, "/")
    form = re.search(r"<search>.*?</search>", html, re.S)[0]
    assert 'action="/doctors/"' in form
    assert 'formaction="/shows/"' in form


# ── Days on the clock of the venue ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("zone", "hour", "local"),
    [
        ("America/New_York", 2, -1),  # in the evening before
        ("Asia/Kolkata", 20, 1),  # at 1:30 the day after
        ("Pacific/Kiritimati", 12, 1),
        ("Pacific/Pago_Pago", 10, -1),
        ("Europe/Berlin", 12, 0),
    ],
)
def test_day_is_the_venues_own(client: Client, zone: str, hour: int, local: int) -> None:
    at = utc(date(YEAR, 7, 10), hour)
    AppointmentFactory(doctor__name="Here", doctor__time_zone=zone, starts_at=at)
    AppointmentFactory(doctor__name="Elsewhere", starts_at=at + timedelta(days=30))
    SlotFactory(show__name="Here", show__time_zone=zone, starts_at=at)
    SlotFactory(show__name="Elsewhere", starts_at=at + timedelta(days=30))
    day = at.date() + timedelta(days=local)
    for offset, expected in [(-1, []), (0, ["Here"]), (1, [])]:
        other = day + timedelta(days=offset)
        assert names(get(client, f"/doctors/?on={other}")) == expected
        assert names(get(client, f"/shows/?from={other}&to={other}")) == expected
    doctor, show = Doctor.objects.get(name="Here"), Show.objects.get(name="Here")
    html = get(client, f"{doctor.get_absolute_url()}?from={day}")
    shown = at.astimezone(ZoneInfo(zone))
    assert days(html)[str(day)] == [f"{shown:%H:%M}"]
    assert f"Times in {zone}." in html
    html = get(client, f"{show.get_absolute_url()}?from={day}&to={day}")
    assert found(html) == "1 date found."
    assert f"({zone})" in html
    assert "no dates" in get(client, f"{show.get_absolute_url()}?from={day + timedelta(days=1)}")


def test_doctors_of_a_day_show_their_times_of_that_day(client: Client) -> None:
    day = date(YEAR, 7, 10)
    doctor = DoctorFactory()
    AppointmentFactory(doctor=doctor, starts_at=utc(day, 12) - timedelta(days=1))
    then = AppointmentFactory(doctor=doctor, starts_at=utc(day, 12))
    taken = AppointmentFactory(doctor__name="Dr. Busy", starts_at=utc(day, 12))
    lifecycle.hold(taken, quantity=1)
    html = get(client, f"/doctors/?on={day}")
    assert names(html) == [doctor.name]
    assert re.findall(r'href="/slots/(\d+)/"', html) == [str(then.pk)]
    assert f'href="{doctor.get_absolute_url()}?from={day}"' in html


def test_shows_of_a_span_show_their_next_date_in_it(client: Client) -> None:
    show = ShowFactory(name="Encore")
    dates = [SlotFactory(show=show, starts_at=utc(date(YEAR, 7, day), 18)) for day in (1, 10, 20)]
    ShowFactory(name="No Dates")
    for query, expected in [
        (f"from={YEAR}-07-02", dates[1]),
        (f"to={YEAR}-07-02", dates[0]),
        (f"from={YEAR}-07-20&to={YEAR}-07-20", dates[2]),
    ]:
        html = get(client, f"/shows/?{query}")
        assert names(html) == ["Encore"]
        assert re.findall(r'href="/slots/(\d+)/"', html) == [str(expected.pk)]
    assert names(get(client, f"/shows/?from={YEAR}-07-21")) == []


def test_dates_of_a_show_can_be_those_with_places_left(client: Client) -> None:
    show = ShowFactory()
    now = timezone.now()
    full = SlotFactory(show=show, places=1)
    lifecycle.hold(full, quantity=1)
    SlotFactory(show=show, opens_at=now + timedelta(hours=1))
    free = SlotFactory(show=show, starts_at=now + timedelta(days=2))
    html = get(client, f"{show.get_absolute_url()}?available=on")
    assert re.findall(r'id="slot-(\d+)"', html) == [str(free.pk)]
    lifecycle.hold(free, quantity=10)
    html = get(client, f"{show.get_absolute_url()}?available=on")
    assert "There are no dates with places left on these days." in text_of(html)
    assert "See all dates" in html


# ── When the clocks change ────────────────────────────────────────────────────────────────────────


def test_hour_that_comes_twice_is_told_apart(client: Client) -> None:
    doctor = DoctorFactory()
    slots = [
        AppointmentFactory(doctor=doctor, starts_at=utc(WINTER, *at))
        for at in [(0, 30), (1, 30), (2, 30)]
    ]
    html = get(client, f"{doctor.get_absolute_url()}?from={WINTER}")
    assert days(html)[str(WINTER)] == ["02:30 CEST", "02:30 CET", "03:30"]
    assert [at[10:] for at in starts(html)] == [
        "T02:30:00+02:00",
        "T02:30:00+01:00",
        "T03:30:00+01:00",
    ]
    assert f"{WINTER:%b} <b>02:30 CEST</b>" in get(client, "/doctors/")
    assert ", 02:30 CEST</time>" in get(client, slots[0].get_absolute_url())
    assert ", 02:30 CET – Holdfast" in text_of(get(client, slots[1].get_absolute_url()))


def test_hour_that_comes_twice_without_a_name_is_told_by_its_offset() -> None:
    show = ShowFactory(time_zone="America/Sao_Paulo")
    at = datetime(2018, 2, 18, 1, 30, tzinfo=ZoneInfo("UTC"))  # 23:30, then 23:00 again
    first = Slot(show=show, starts_at=at)
    second = Slot(show=show, starts_at=at + timedelta(hours=1))
    assert [f"{s.local_start:%H:%M} {s.clock_name}" for s in (first, second)] == [
        "23:30 -02",
        "23:30 -03",
    ]


@pytest.mark.parametrize(("day", "hours"), [(SUMMER, 23), (WINTER, 25)])
def test_day_of_the_change_holds_all_of_its_hours_and_no_other(
    client: Client, day: date, hours: int
) -> None:
    doctor = DoctorFactory()
    midnight = datetime(day.year, day.month, day.day, tzinfo=BERLIN).astimezone(ZoneInfo("UTC"))
    for n in range(-1, hours + 1):
        AppointmentFactory(doctor=doctor, starts_at=midnight + timedelta(hours=n))
    before, after = (day + timedelta(days=n) for n in (-1, 1))
    week = days(get(client, f"{doctor.get_absolute_url()}?from={before}"))
    assert [len(week[str(d)]) for d in (before, day, after)] == [1, hours, 1]
    assert (week[str(before)], week[str(after)]) == (["23:00"], ["00:00"])
    assert len(set(week[str(day)])) == hours
    assert ("02:00" in week[str(day)]) is False  # left out, or told apart
    assert names(get(client, f"/doctors/?on={day}")) == [doctor.name]


def test_week_over_the_change_is_of_seven_days(client: Client) -> None:
    doctor = AppointmentFactory(starts_at=utc(WINTER, 12)).doctor
    html = get(client, f"{doctor.get_absolute_url()}?from={WINTER - timedelta(days=3)}")
    assert list(days(html)) == [str(WINTER + timedelta(days=n)) for n in range(-3, 4)]


# ── A doctor's weeks ──────────────────────────────────────────────────────────────────────────────


def links(html: str) -> dict[str, str]:
    """Where Earlier and Later lead."""
    bar = re.search(r'<div class="week-bar">.*?</nav>', html, re.S)[0]
    found = re.findall(r'rel="(\w+)" href="\?from=([-\d]+)"', bar)
    return dict(found)


@pytest.mark.parametrize("size", [1, 6])
def test_doctor_costs_three_queries(
    client: Client, django_assert_num_queries: Any, size: int
) -> None:
    doctor = DoctorFactory()
    for n in range(size):
        AppointmentFactory(doctor=doctor, starts_at=timezone.now() + timedelta(days=1, hours=n))
        AppointmentFactory(doctor=doctor, starts_at=timezone.now() + timedelta(days=9, hours=n))
    with django_assert_num_queries(3):
        html = get(client, doctor.get_absolute_url())
    assert len(starts(html)) == size


def test_doctors_week_shows_free_times_day_by_day(client: Client) -> None:
    doctor = DoctorFactory()
    day = date(YEAR, 7, 10)
    at = [utc(day, 8), utc(day, 9), utc(day, 23), utc(day + timedelta(days=7), 8)]
    slots = [AppointmentFactory(doctor=doctor, starts_at=start) for start in at]
    lifecycle.hold(slots[1], quantity=1)
    html = get(client, f"{doctor.get_absolute_url()}?from={day}")
    week = days(html)
    assert [len(times) for times in week.values()] == [1, 1, 0, 0, 0, 0, 0]
    assert week[str(day)] == ["10:00"]
    assert week[str(day + timedelta(days=1))] == ["01:00"]
    assert html.count("None free") == 5
    assert links(html) == {"prev": f"{YEAR}-07-03", "next": f"{YEAR}-07-17"}
    html = get(client, f"{doctor.get_absolute_url()}?from={YEAR}-07-17")
    assert links(html) == {"prev": f"{YEAR}-07-10"}


def test_first_week_is_from_today_on_at_the_venue(client: Client) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        doctor = AppointmentFactory(doctor__time_zone=zone).doctor
        html = get(client, doctor.get_absolute_url())
        today = timezone.now().astimezone(ZoneInfo(zone)).date()
        assert next(iter(days(html))) == str(today)
        assert links(html) == {}
        assert html.count('aria-current="date"') == 1
        html = get(client, f"{doctor.get_absolute_url()}?from={today + timedelta(days=3)}")
        assert links(html) == {"prev": str(today)}


def test_week_without_free_times_leads_to_the_next_one(client: Client) -> None:
    at = utc(date(YEAR, 7, 9), 23)  # the tenth in Berlin
    doctor = AppointmentFactory(starts_at=at).doctor
    html = get(client, doctor.get_absolute_url())
    assert "The next free time is" in html
    assert f"10 July {YEAR}, 01:00" in text_of(html)
    assert f'<a class="button" href="?from={YEAR}-07-10">' in html
    html = get(client, f"{doctor.get_absolute_url()}?from={YEAR}-07-11")
    assert f"No times are free from 11 July {YEAR} on." in html
    assert f'href="{doctor.get_absolute_url()}">See the times from today on' in html


def test_week_that_is_past_says_so_and_shows_this_one(client: Client) -> None:
    doctor = AppointmentFactory().doctor
    html = get(client, f"{doctor.get_absolute_url()}?from=2020-02-29")
    assert "That day is past. These are the days from today on." in html
    assert next(iter(days(html))) == str(timezone.now().astimezone(BERLIN).date())


@pytest.mark.parametrize("day", ["2999-12-31", "2999-12-28", "2999-12-25"])
def test_weeks_end_with_the_calendar(client: Client, day: str) -> None:
    doctor = AppointmentFactory(starts_at=utc(date(2999, 12, 31), 12)).doctor
    html = get(client, f"{doctor.get_absolute_url()}?from={day}")
    assert list(days(html).items())[-1] == ("2999-12-31", ["13:00"])
    assert "next" not in links(html)


# ── What it costs ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(
    ("query", "queries"),
    [("q=quartz&specialization=Cardiology&venue=Old+Theatre&sort=name", 4), ("on=DAY&from=DAY", 5)],
)
@pytest.mark.parametrize("path", ["/doctors/", "/shows/"])
def test_filtered_lists_cost_the_same_at_any_size(
    client: Client, django_assert_num_queries: Any, path: str, query: str, queries: int, size: int
) -> None:
    day = date(YEAR, 7, 10)
    for n in range(size):
        at = utc(day, 8) + timedelta(hours=n)
        AppointmentFactory(
            doctor__name=f"Quartz {n}", starts_at=at, doctor__time_zone="Asia/Kolkata"
        )
        SlotFactory(show__name=f"Quartz {n}", starts_at=at, show__time_zone="Asia/Kolkata")
    SlotFactory()
    AppointmentFactory()
    with django_assert_num_queries(queries):
        html = get(client, f"{path}?{query.replace('DAY', str(day))}")
    assert len(names(html)) == size


@pytest.mark.parametrize("size", [1, 5])
def test_filtered_dates_cost_three_queries(
    client: Client, django_assert_num_queries: Any, size: int
) -> None:
    show = ShowFactory()
    SlotFactory.create_batch(size, show=show)
    with django_assert_num_queries(3):
        html = get(client, f"{show.get_absolute_url()}?from=2020-01-01&available=on")
    assert found(html).startswith(f"{size} date")
