"""What README says that one can paste, pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
