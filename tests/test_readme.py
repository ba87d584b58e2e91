"""What README says that one can paste, pasted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from authsite.web import limits
from tests import services

pytestmark = pytest.mark.site

README = (services.ROOT / "README.md").read_text()


@pytest.fixture
def site(sqlite_url: str):
    with services.Site({"DATABASE_URL": sqlite_url}, workers=1) as running:
        yield running


def test_the_tour_of_the_api_works_when_pasted(site):
    tour = next(block for block in re.findall(r"```sh\n(.*?)```", README, re.S) if "SITE=" in block)
    assert "SITE=http://localhost:5000\n" in tour
    script = tour.replace("http://localhost:5000", site.url)
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout
    assert '"device_name": "Chrome on Windows"' in said
    assert said.index('"device_name": "curl"') < said.index('"device_name": "Chrome on Windows"')
    assert '"message":"Session revoked: curl"' in said
    assert said.count('"code":"session_revoked"') == 2
    assert "one successor" in said
    assert "Successfully logged out from all devices (1 sessions terminated)" in said


def test_the_two_commands_are_the_ones_that_are_promised():
    section = README.split("## Run it, test it")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)\n```", section, re.S)
    assert [command.rsplit("/", 1)[1] for command in commands] == ["flask run", "pytest"]


def test_each_link_leads_to_a_heading_and_the_contents_name_each():
    def anchors(text: str, level: str) -> set[str]:
        text = re.sub(r"```.*?```", "", text, flags=re.S)
        headings = re.findall(rf"^{level} (.+)$", text, re.M)
        return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}

    for path, anchor in re.findall(r"\]\(([\w/.]*\.md)?#([^)]+)\)", README):
        there = (services.ROOT / (path or "README.md")).read_text()
        assert anchor in anchors(there, "##+"), anchor
    [contents] = re.findall(r"^In this text:\n\n(.*?)\n\n", README, re.M | re.S)
    listed = re.findall(r"\(#([^)]+)\)", contents)
    assert sorted([*listed, "run-it-test-it"]) == sorted(anchors(README, "##"))


def test_the_limits_are_those_that_hold():
    section = README.split("## Limits")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| (\d+) \| (\w+) \|$", section, re.M)
    held = {
        each.name: (str(each.per_minute), each.whose)
        for each in vars(limits).values()
        if isinstance(each, limits.Limit)
    }
    assert {"login", "register", "request-reset", "refresh"} <= {name for name, _, _ in rows}
    assert rows == [(name, *held[name]) for name, _, _ in rows]


def test_the_way_back_that_is_promised_leads_back(tmp_path):
    """The older release starts on the tables only after the newer one has taken them back."""
    back = README.split("### Upgrade a machine")[1].split("Back again")[1].split("\n### ")[0]
    steps = [line.split("&&")[0].strip() for line in back.split("```")[1].splitlines()[1:]]
    assert [step.rsplit("/")[-1].split()[0] for step in steps] == [
        "systemctl",
        "flask",
        "git",
        "systemctl",
    ], "downgrade, then the older code"
    older = tmp_path / "older"
    shutil.copytree(services.ROOT / "migrations", older / "migrations")
    for name in ("authsite", "wsgi.py"):
        (older / name).symlink_to(services.ROOT / name)
    *_, before, newest = sorted((older / "migrations/versions").glob("0*.py"))
    newest.unlink()
    environ = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"sqlite:///{tmp_path}/authsite.db",
        "SECRET_KEY": services.SECRET_KEY,
        "FLASK_SKIP_DOTENV": "1",
    }

    def run(*arguments: str, where: Path = services.ROOT) -> tuple[int, str]:
        flask = [sys.executable, "-m", "flask", "--app", "wsgi", "db", *arguments]
        if where == older:
            flask += ["--directory", str(older / "migrations")]
        done = subprocess.run(
            flask, cwd=where, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    assert run("upgrade")[0] == 0
    code, said = run("upgrade", where=older)
    assert (code, "Can't locate revision" in said) == (1, True)
    assert run("downgrade", before.name[:4])[0] == 0
    assert run("upgrade", where=older) == (0, "")
    assert before.name[:4] in run("current", where=older)[1]


def test_a_command_finds_the_settings_of_the_units(tmp_path):
    """In a development's database nobody would find whom he looks for."""
    block = next(
        each for each in re.findall(r"```sh\n(.*?)```", README, re.S) if "check-config" in each
    )
    settings = tmp_path / "authsite.env"
    settings.write_text(
        "APP_ENV=production\nTRUSTED_PROXY_HOPS=1\nPUBLIC_BASE_URL=https://accounts.example.com\n"
        f"SECRET_KEY={services.SECRET_KEY}\nDATABASE_URL='postgresql://me:p$w d&1@127.0.0.1/a'\n"
        "SITE_NAME='Example & $Sons'\nMAIL_SERVER=smtp.example.com\n"
    )
    flask = f"{Path(sys.executable).parent}/flask"
    script = block.replace("/etc/authsite.env", str(settings)).replace(".venv/bin/flask", flask)
    done = subprocess.run(
        ["sh", "-euc", f'{script}\nprintf "%s\\n" "$SITE_NAME" "$DATABASE_URL"'],
        cwd=services.ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "The settings are good.",
        "Example & $Sons",
        "postgresql://me:p$w d&1@127.0.0.1/a",
    ]
