"""The Postman collection: the OpenAPI document as requests, which can be sent in their order."""

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from booking_site.api import api

PATH = settings.BASE_DIR / "docs" / "postman_collection.json"
VARIABLES = {
    "base_url": "http://127.0.0.1:8000",
    "email": "ada@example.org",
    "password": "correct horse battery staple",
    "staff_email": "admin@example.org",
    "staff_password": "",
    **dict.fromkeys(("token", "refresh", "staff_token", "key"), ""),
    **dict.fromkeys(("doctor_id", "show_id", "slot_id", "booking_id"), ""),
}
# Fields of bodies, and queries, that come from variables; and what of an answer goes into them.
FIELDS = {"slot": "slot_id", "email": "email", "password": "password", "refresh": "refresh"}
QUERIES = {"slots": {"available": "true"}}
KEPT = {
    "token": {"token": "access", "refresh": "refresh"},
    "doctors": {"doctor_id": "items[0].id"},
    "shows": {"show_id": "items[0].id"},
    "slots": {"slot_id": "items[0].id"},
    "hold": {"booking_id": "id"},
    "add_doctor": {"doctor_id": "id"},
}
DESCRIPTION = """
Every call of the API, in an order in which they can be run from top to bottom against the demo
site of `make run`. Set `base_url`, if it is another site, and for the folder “Office”
`staff_password`, which `make run` prints. Made by `make postman`.
""".strip()


class Command(BaseCommand):
    help = "Writes docs/postman_collection.json, from the API's OpenAPI document."

    def handle(self, **options: Any) -> None:
        PATH.write_text(as_text(collection(api.get_openapi_schema())))
        self.stdout.write(f"Wrote {PATH.relative_to(settings.BASE_DIR)}.")


def as_text(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def collection(document: dict[str, Any]) -> dict[str, Any]:
    """As Postman's format 2.1: a folder for each tag."""
    folders = {tag["name"]: tag | {"item": []} for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            item = _item(path, method, operation)
            folders[operation["tags"][0]]["item"].append(item)
            if operation["operationId"] == "token":
                folders["Office"]["item"].append(_as_staff(item))
    folders["Office"]["auth"] = _bearer("staff_token")
    return {
        "info": {
            "name": document["info"]["title"],
            "description": DESCRIPTION,
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "auth": _bearer("token"),
        "variable": [{"key": name, "value": value} for name, value in VARIABLES.items()],
        "item": list(folders.values()),
    }


def _bearer(variable: str) -> dict[str, Any]:
    value = {"key": "token", "value": f"{{{{{variable}}}}}", "type": "string"}
    return {"type": "bearer", "bearer": [value]}


def _item(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    name = operation["operationId"]
    request: dict[str, Any] = {
        "method": method.upper(),
        "description": operation["description"],
        "header": [],
        "url": _url(path, operation),
    }
    if "security" not in operation:
        request["auth"] = {"type": "noauth"}
    if "requestBody" in operation:
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        request["header"].append({"key": "Content-Type", "value": "application/json"})
        request["body"] = {
            "mode": "raw",
            "raw": _body(next(iter(examples.values()))["value"]),
            "options": {"raw": {"language": "json"}},
        }
    events = [_event("test", *_tests(operation, KEPT.get(name, {})))]
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"]):
        request["header"].append({"key": "Idempotency-Key", "value": "{{key}}"})
        new = 'pm.collectionVariables.set("key", pm.variables.replaceIn("{{$guid}}"));'
        events.append(_event("prerequest", new))
    return {"name": operation["summary"], "event": events, "request": request}


def _as_staff(item: dict[str, Any]) -> dict[str, Any]:
    """Logging in, for the office."""
    text = json.dumps(item | {"name": "Log in as staff"})
    for name in ("email", "password"):
        text = text.replace(f"{{{{{name}}}}}", f"{{{{staff_{name}}}}}")
    made = json.loads(text)
    token = 'pm.collectionVariables.set("staff_token", pm.response.json().access);'
    made["event"][0]["script"]["exec"][1:] = [token]
    return made


def _url(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    wanted = QUERIES.get(operation["operationId"], {})
    query = [
        {
            "key": parameter["name"],
            "value": wanted.get(parameter["name"], str(parameter["schema"].get("default", ""))),
            "description": parameter.get("description", ""),
            "disabled": parameter["name"] not in wanted,
        }
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    ]
    path = path.replace("{", "{{").replace("}", "}}")
    sent = "&".join(f"{one['key']}={one['value']}" for one in query if not one["disabled"])
    return {
        "raw": "{{base_url}}" + path + (f"?{sent}" if sent else ""),
        "host": ["{{base_url}}"],
        "path": path.strip("/").split("/"),
        "query": query,
    }


def _body(example: dict[str, Any]) -> str:
    """With variables: `{{slot_id}}` is a number, so it stands without quotation marks."""
    known = {name: f"{{{{{FIELDS[name]}}}}}" for name in example if name in FIELDS}
    return json.dumps(example | known, indent=2).replace('"{{slot_id}}"', "{{slot_id}}")


def _tests(operation: dict[str, Any], kept: dict[str, str]) -> list[str]:
    """A line for the status, and one for each variable that the answer sets."""
    statuses = sorted(int(status) for status in operation["responses"] if status.startswith("2"))
    return [
        f'pm.test("it works", () => pm.expect({statuses}).to.include(pm.response.code));',
        *(
            f'pm.collectionVariables.set("{variable}", pm.response.json().{field});'
            for variable, field in kept.items()
        ),
    ]


def _event(when: str, *lines: str) -> dict[str, Any]:
    return {"listen": when, "script": {"type": "text/javascript", "exec": list(lines)}}
