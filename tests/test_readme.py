"""What README says that one can paste, pasted."""

import re
import subprocess

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
    assert '"device_name": "curl"' in said
    assert '"message":"Session revoked: curl"' in said
    assert said.count('"code":"session_revoked"') == 2
    assert "one successor" in said
    assert "Successfully logged out from all devices (1 sessions terminated)" in said


def test_the_two_commands_are_the_ones_that_are_promised():
    section = README.split("## Run it, test it")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)\n```", section, re.S)
    assert [command.rsplit("/", 1)[1] for command in commands] == ["flask run", "pytest"]
