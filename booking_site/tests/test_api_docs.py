"""What programs are told about the API: its document, its page, the Postman collection, the README.

All four are run against the site: words that no longer hold fail here.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.test import Client
from django.urls import reverse
from ninja.operation import Operation
from playwright.sync_api import BrowserContext, Page, Request, expect

from accounts import tokens
from accounts.models import User
from booking_site.api import api
from booking_site.management.commands import postman
from booking_site.openapi import EXAMPLES
from booking_site.problems import CODES, MEDIA_TYPE
from booking_site.tests.factories import PASSWORD, AppointmentFactory, SlotFactory, UserFactory
from booking_site.tests.live_site import LiveSite
from bookings.models import Booking

# The contract, word for word.
CONTRACT = {
    "400": {"invalid"},
    "401": {"unauthenticated"},
    "403": {"forbidden"},
    "404": {"not_found"},
    "405": {"method_not_allowed"},
    "409": {
        *("seats_taken", "sold_out", "hold_expired", "wrong_state", "slot_closed", "overlap"),
        *("key_reused", "too_many_holds"),
    },
    "413": {"too_large"},
    "415": {"unsupported_media"},
    "429": {"too_many"},
    "503": {"busy"},
}
HEADERS = {
    "401": {"WWW-Authenticate"},
    "405": {"Allow"},
    "429": {"Retry-After"},
    "503": {"Retry-After"},
}
# Clients are generated from these names.
NAMES = {
    "POST auth/register": "register",
    "POST auth/token": "token",
    "POST auth/token/refresh": "refresh",
    "GET doctors": "doctors",
    "GET doctors/{doctor_id}": "doctor",
    "GET shows": "shows",
    "GET shows/{show_id}": "show",
    "GET slots": "slots",
    "GET slots/{slot_id}": "slot",
    "GET slots/{slot_id}/seats": "seats",
    "POST bookings": "hold",
    "GET bookings": "bookings",
    "GET bookings/{booking_id}": "booking",
    "GET bookings/by-key/{key}": "booking_by_key",
    "POST bookings/{booking_id}/extend": "extend",
    "POST bookings/{booking_id}/confirm": "confirm",
    "POST bookings/{booking_id}/reschedule": "reschedule",
    "POST bookings/{booking_id}/cancel": "cancel",
    "GET admin/doctors": "all_doctors",
    "POST admin/doctors": "add_doctor",
    "POST admin/doctors/{doctor_id}/slots": "add_slot",
    "POST admin/shows": "add_show",
    "GET admin/slots": "all_slots",
    "GET admin/bookings": "all_bookings",
    "POST admin/expire-holds": "expire_holds",
    "GET health": "health",
    "GET health/ready": "health_ready",
    "GET health/live": "health_live",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(json.dumps(api.get_openapi_schema()))


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All of them, by their names."""
    return {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
    }


def resolve(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in response:
        return response
    return document["components"]["responses"][response["$ref"].rpartition("/")[2]]


def check(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    """Raises ValidationError unless that is an instance of the schema."""
    whole = schema | {"components": document["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(instance)


def codes_of(response: dict[str, Any]) -> list[str]:
    return response["content"][MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["code"]["enum"]


# ── The document ──────────────────────────────────────────────────────────────────────────────────


def test_document_is_valid_openapi_31(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()


def test_operations_keep_their_names(document: dict[str, Any]) -> None:
    found = {
        f"{method.upper()} {path.removeprefix('/api/v1/')}": operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert found == NAMES
    assert list(EXAMPLES) == list(NAMES.values())


def test_document_and_introduction_have_every_code_of_the_contract(
    document: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    found: dict[str, set[str]] = {}
    for operation in operations.values():
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                found.setdefault(status, set()).update(codes_of(resolve(document, response)))
    assert found == CONTRACT
    table = re.findall(r"^\| (\d+) \| `(\w+)` \|", document["info"]["description"], re.M)
    assert sorted(table) == sorted((s, code) for s, codes in CONTRACT.items() for code in codes)
    assert {
        int(status): code for status, codes in CONTRACT.items() if status != "409" for code in codes
    } | {500: "internal"} == CODES


@pytest.mark.parametrize("name", NAMES.values())
def test_operation_documents_success_and_errors_with_examples_that_hold(
    document: dict[str, Any], operations: dict[str, dict[str, Any]], name: str
) -> None:
    operation = operations[name]
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"][0] in [tag["name"] for tag in document["tags"]]
    successes = 0
    for status, response in operation["responses"].items():
        response = resolve(document, response)
        if status.startswith("2"):
            content = response["content"]["application/json"]
            check(document, content["schema"], content["example"])
            has_address = status == "201" and name != "register"
            assert set(response.get("headers", {})) == ({"Location"} if has_address else set())
            successes += 1
            continue
        assert list(response["content"]) == [MEDIA_TYPE]
        assert set(response.get("headers", {})) == HEADERS.get(status, set())
        content = response["content"][MEDIA_TYPE]
        assert list(content["examples"]) == codes_of(response)
        for code, example in content["examples"].items():
            check(document, content["schema"], example["value"])
            assert (example["value"]["code"], example["value"]["status"]) == (code, int(status))
    assert successes == (2 if name == "hold" else 1)


def test_examples_of_bodies_are_accepted(operations: dict[str, dict[str, Any]]) -> None:
    """By the schemas of the code, which know more than the document: one of two fields, say."""
    checked = 0
    for operation in views():
        for model in operation.models:
            if model.__ninja_param_source__ != "body":
                continue
            (field,) = model.model_fields
            for body in EXAMPLES[operation.view_func.__name__][0].values():
                model.model_validate({field: body})
                checked += 1
    with_body = [one for one in operations.values() if "requestBody" in one]
    assert checked == sum(len(EXAMPLES[one["operationId"]][0]) for one in with_body) == 16


def views() -> Iterator[Operation]:
    for router in api._get_bound_routers():
        for path_view in router.path_operations.values():
            yield from path_view.operations


def test_hold_says_all_that_it_may_answer(operations: dict[str, dict[str, Any]]) -> None:
    hold = operations["hold"]
    assert " ".join(hold["responses"]) == "200 201 400 401 403 404 405 409 413 415 429 503"
    assert codes_of(hold["responses"]["409"]) == [
        *("seats_taken", "sold_out", "slot_closed", "key_reused", "too_many_holds", "wrong_state")
    ]
    assert hold["security"] == [{"Bearer": []}, {"Session": [], "CSRF": []}, {}]
    (key,) = hold["parameters"]
    assert (key["in"], key["name"], key["required"]) == ("header", "Idempotency-Key", False)
    assert (key["schema"]["minLength"], key["schema"]["maxLength"]) == (16, 200)
    assert {"example", "examples"}.isdisjoint(key)  # one that all who try it out would share


def test_who_may_call_is_said(
    document: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    assert operations["bookings"]["security"] == [{"Bearer": []}, {"Session": []}]
    assert operations["add_show"]["security"] == [{"Bearer": []}, {"Session": [], "CSRF": []}]
    assert [name for name, one in operations.items() if "security" not in one] == [
        *("register", "token", "refresh", "doctors", "doctor", "shows", "show", "slots", "slot"),
        *("seats", "health", "health_ready", "health_live"),
    ]
    bearer = document["components"]["securitySchemes"]["Bearer"]
    assert (bearer["type"], bearer["scheme"], bearer["bearerFormat"]) == ("http", "bearer", "JWT")


def test_parameters_have_their_formats_and_bounds(operations: dict[str, dict[str, Any]]) -> None:
    (slot_id,) = operations["slot"]["parameters"]
    schema = slot_id["schema"]
    assert (schema["format"], schema["minimum"], schema["maximum"]) == ("int64", 1, 2**63 - 1)
    (booking_id,) = operations["booking"]["parameters"]
    assert booking_id["schema"]["format"] == "uuid"
    asked = {one["name"]: one["schema"] for one in operations["slots"]["parameters"]}
    assert list(asked) == ["doctor", "show", "from", "to", "available", "limit", "offset"]
    assert (asked["limit"]["minimum"], asked["limit"]["maximum"]) == (1, 200)
    assert (asked["doctor"]["type"], asked["from"]["format"]) == ("integer", "date-time")


def test_document_is_the_same_from_run_to_run(document: dict[str, Any]) -> None:
    again = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import django, json; django.setup(); from booking_site.api import api;"
            "print(json.dumps(api.get_openapi_schema()))",
        ],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout == json.dumps(document) + "\n"


def test_document_is_sent_again_only_if_it_has_changed(client: Client) -> None:
    first = client.get("/api/v1/openapi.json")
    assert (first.status_code, first["Cache-Control"]) == (200, "no-cache")
    assert first.json() == json.loads(json.dumps(api.get_openapi_schema()))
    again = client.get("/api/v1/openapi.json", headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/api/v1/openapi.json", "/api/v1/docs"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_whoever_has_a_token_is_told_too_that_it_has_not_changed(
    client: Client, method: str, path: str
) -> None:
    ask, token = getattr(client, method), {"Authorization": "Bearer x"}
    etag = ask(path, headers=token)["ETag"]
    same = ask(path, headers=token | {"If-None-Match": etag})
    assert (same.status_code, same.content, same["ETag"]) == (304, b"", etag)
    other = ask(path, headers=token | {"If-Match": '"x"'})
    assert other.status_code == 412
    if method == "get":
        assert other.json()["detail"].startswith("What is here now is not what the header")


# ── The page ──────────────────────────────────────────────────────────────────────────────────────


def is_cut_by_leaving(request: Request) -> bool:
    """News end in no other way, nor what a page is still loading when it is left; what the network
    or `route` refuses fails otherwise."""
    is_of_script = request.resource_type in ("xhr", "fetch")
    return request.failure == "net::ERR_ABORTED" and not is_of_script


@pytest.fixture
def page(context: BrowserContext, site: LiveSite) -> Iterator[Page]:
    """A page that finds no other host, and whose console stays silent."""
    said: list[str] = []
    context.route(lambda url: not url.startswith(site.url), lambda route: route.abort())
    context.on(
        "requestfailed", lambda request: is_cut_by_leaving(request) or said.append(request.url)
    )
    context.on("weberror", lambda error: said.append(str(error.error)))
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    yield page
    assert said == []


def try_out(page: Page, name: str, *, body: str = "", **parameters: str) -> tuple[int, Any]:
    """Sends that operation from the page; returns the status and the answer."""
    operation = page.locator(f"[id$='-{name}'].opblock")
    if not operation.get_by_role("button", name="Execute").count():
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
    for parameter, value in parameters.items():
        operation.locator(f"tr[data-param-name='{parameter}'] :is(input, select)").fill(value)
    if body:
        operation.locator("textarea").fill(body)
    with page.expect_response(re.compile("/api/v1/")) as answer:
        operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_have_text(
        re.compile(f"^{answer.value.status}")
    )
    return answer.value.status, answer.value.json()


@pytest.mark.django_db(transaction=True)
def test_page_tries_things_out_offline_as_guest_with_a_token_and_as_who_is_logged_in(
    page: Page, client: Client
) -> None:
    slot, user = SlotFactory(places=5), UserFactory()
    body = json.dumps({"slot": slot.pk, "quantity": 1})
    page.goto("/shows/")
    page.get_by_role("link", name="The API for programs").click()
    expect(page).to_have_title("API · Holdfast")
    status, found = try_out(page, "slots", limit="1")
    assert (status, found["items"][0]["id"]) == (200, slot.pk)
    status, booking = try_out(page, "hold", body=body)
    assert (status, Booking.objects.get(pk=booking["id"]).user) == (201, None)
    assert page.evaluate("document.documentElement.scrollWidth") == 390

    page.get_by_role("button", name="Authorize", exact=True).first.click()
    dialog = page.locator(".dialog-ux")
    expect(dialog.locator("input")).to_have_count(1)  # a script can send no cookie
    expect(dialog.locator("#auth-bearer-value")).to_be_focused()
    page.keyboard.insert_text(tokens.issue(user)["access"])
    dialog.get_by_role("button", name="Apply credentials").click()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    status, booking = try_out(page, "hold", body=body)
    assert (status, Booking.objects.get(pk=booking["id"]).user) == (201, user)

    client.force_login(user)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    page.context.add_cookies(
        [{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": page.url}]
    )
    page.goto(reverse("api:openapi-view"))
    expect(page.get_by_text(f"Logged in as {user}")).to_be_visible()
    status, booking = try_out(page, "hold", body=body)
    assert (status, Booking.objects.get(pk=booking["id"]).user) == (201, user)
    page.get_by_role("link", name="Holdfast", exact=True).click()
    expect(page.get_by_role("navigation", name="Site")).to_be_visible()


@pytest.mark.django_db
def test_page_of_guests_may_be_kept_and_one_with_a_csrf_token_not(client: Client) -> None:
    page = client.get(reverse("api:openapi-view"))
    assert (page["Cache-Control"], list(page.cookies)) == ("no-cache", [])
    assert b'data-csrf-token=""' in page.content
    assert b'<html lang="en">' in page.content
    assert b'<a href="/api/v1/openapi.json">' in page.content  # without JavaScript
    client.force_login(UserFactory())
    page = client.get(reverse("api:openapi-view"))
    assert "no-store" in page["Cache-Control"]
    assert re.search(rb'data-csrf-token="\w{64}"', page.content)


def test_page_has_the_policy_of_the_whole_site(client: Client) -> None:
    policy = client.get(reverse("api:openapi-view"))["Content-Security-Policy"]
    assert "unsafe" not in policy
    elsewhere = client.get("/favicon.ico")["Content-Security-Policy"]
    assert sorted(policy.split("; ")) == sorted(elsewhere.split("; "))


# ── The Postman collection ────────────────────────────────────────────────────────────────────────


def test_postman_collection_is_current() -> None:
    made = postman.as_text(postman.collection(api.get_openapi_schema()))
    assert postman.PATH.read_text() == made, "run `make postman`, and commit what it writes"


@pytest.mark.django_db
def test_postman_collection_runs_from_top_to_bottom_as_the_document_says(
    client: Client, document: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    """Of its scripts those lines are understood that there are: one of any other kind fails."""
    SlotFactory(places=5)
    AppointmentFactory()
    UserFactory(email="admin@example.org", is_staff=True, is_superuser=True)
    collection = json.loads(postman.PATH.read_text())
    variables = {one["key"]: one["value"] for one in collection["variable"]}
    variables |= {"staff_password": PASSWORD, "base_url": ""}
    named = {operation["summary"]: operation for operation in operations.values()}
    sent = []

    def fill_in(text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: str(variables[found[1]]), text)

    for folder in collection["item"]:
        for item in folder["item"]:
            request = item["request"]
            auth = request.get("auth") or folder.get("auth") or collection["auth"]
            scripts = {one["listen"]: one["script"]["exec"] for one in item["event"]}
            for line in scripts.get("prerequest", []):
                assert line == (
                    'pm.collectionVariables.set("key", pm.variables.replaceIn("{{$guid}}"));'
                )
                variables["key"] = "0e5a8e0c-6b67-4b42-9d5f-9f6f4f7a8a11"
            headers = {one["key"]: fill_in(one["value"]) for one in request["header"]}
            if auth["type"] == "bearer":
                headers["Authorization"] = f"Bearer {fill_in(auth['bearer'][0]['value'])}"
            answer = client.generic(
                request["method"],
                fill_in(request["url"]["raw"]),
                fill_in(request.get("body", {}).get("raw", "")),
                content_type="application/json",
                headers=headers,
            )
            sent.append(item["name"])
            answers = named.get(item["name"], operations["token"])["responses"]
            content = answers[str(answer.status_code)]["content"]["application/json"]
            check(document, content["schema"], answer.json())
            for line in scripts["test"]:
                if wanted := re.search(r"pm\.expect\((\[[\d, ]+\])\)\.to\.include", line):
                    said = (item["name"], answer.content)
                    assert answer.status_code in json.loads(wanted[1]), said
                    continue
                name, field = re.fullmatch(
                    r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.(\S+)\);', line
                ).groups()
                value = answer.json()
                for part in re.findall(r"\w+", field):
                    value = value[int(part) if part.isdigit() else part]
                variables[name] = value
    assert len(sent) == len(NAMES) + 1  # staff log in, too
    assert Booking.objects.get().status == "CANCELLED"


# ── The README ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.django_db(transaction=True)
def test_commands_of_the_readme_work_from_first_to_last(site: LiveSite, tmp_path: Path) -> None:
    """All of them in one shell; a `curl` of ours notes what was answered."""
    for _ in range(2):
        SlotFactory(places=3)
    password = make_password(PASSWORD, hasher="pbkdf2_sha256")  # what the site itself reads
    staff = UserFactory(email="admin@example.org", is_staff=True, is_superuser=True)
    User.objects.filter(pk=staff.pk).update(password=password)
    readme = (settings.BASE_DIR / "README.md").read_text()
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", readme, re.M | re.S))
    for written, here in (
        ("http://127.0.0.1:8000", site.url),
        ("$(cat .data/run/demo_password)", f"'{PASSWORD}'"),
    ):
        assert script.count(written) == 1
        script = script.replace(written, here)
    curl = tmp_path / "curl"
    ours = Path(__file__).with_name("curl.py")
    curl.write_text(f'#!/bin/sh\nexec {sys.executable} {ours} "$@"\n')
    curl.chmod(0o755)
    log = tmp_path / "log"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CURL_LOG": str(log)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    booked = "/api/v1/bookings/ID"
    asked = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", log.read_text())
    assert re.sub(r"/\d+", "/N", asked).splitlines() == [
        *["200 GET /api/v1/slots"] * 2,
        "200 GET /api/v1/slots/N/seats",
        *("201 POST /api/v1/bookings", "200 POST /api/v1/bookings"),
        "200 GET /api/v1/bookings/by-key/ID",
        *(f"200 POST {booked}/extend", f"200 POST {booked}/confirm", f"200 GET {booked}"),
        *(f"200 POST {booked}/reschedule", f"200 POST {booked}/cancel"),
        *("201 POST /api/v1/auth/register", "200 POST /api/v1/auth/token"),
        *("201 POST /api/v1/bookings", "200 GET /api/v1/bookings"),
        "200 POST /api/v1/auth/token",
        *("201 POST /api/v1/admin/doctors", "201 POST /api/v1/admin/doctors/N/slots"),
        *("201 POST /api/v1/admin/shows", "200 GET /api/v1/admin/bookings"),
        "200 POST /api/v1/admin/expire-holds",
    ]
    held = Booking.objects.exclude(status="FAILED").order_by("created_at")
    assert [(one.status, one.user and one.user.email) for one in held] == [
        ("CANCELLED", None),
        ("PENDING", "ada@example.org"),
    ]
