"""What a process takes along when it starts: while a worker imports, it answers nobody."""

import json
import subprocess
import sys

import pytest
from flask_migrate import downgrade
from sqlalchemy import text

from authsite import config, create_app, database
from tests import services

START = "import wsgi"
TELL = """
import gc, json, sys
print(json.dumps({
    "modules": sorted(sys.modules),
    "is_collecting": gc.isenabled(),
    "kept": gc.get_freeze_count(),
    "looked_through": len(gc.get_objects()),
}))
"""


def started(environ: dict[str, str], *, by: str = START) -> dict:
    run = subprocess.run(
        [sys.executable, "-c", by + TELL],
        cwd=services.ROOT,
        env={"SECRET_KEY": services.SECRET_KEY, **environ},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def worker():
    """What a process that serves requests holds before the first; it connects to nothing until then."""
    return started(
        {
            "DATABASE_URL": f"postgresql://ada@{services.HOST}:1/ada",
            "REDIS_URL": f"redis://{services.HOST}:1/0",
        }
    )


@pytest.mark.site
@pytest.mark.parametrize(
    "unneeded",
    [
        pytest.param({"alembic", "mako", "flask_migrate"}, id="migrations"),
        pytest.param({"zxcvbn"}, id="the list of passwords"),
        pytest.param({"phonenumbers"}, id="telephone numbers"),
        pytest.param({"urllib3"}, id="the client of webhooks"),
        pytest.param({"email_validator"}, id="the grammar of addresses"),
        pytest.param({"segno"}, id="pictures of codes"),
        pytest.param({"user_agents", "ua_parser"}, id="names of browsers"),
        pytest.param({"fido2"}, id="passkeys"),
    ],
)
def test_a_worker_begins_without_what_few_requests_need(worker, unneeded):
    """Each process would import it, at every start."""
    assert not unneeded & set(worker["modules"])


@pytest.mark.site
def test_a_worker_never_looks_through_what_it_imported_for_garbage(worker):
    """Nobody is answered meanwhile; what requests leave behind is collected as ever."""
    assert worker["is_collecting"]
    assert worker["kept"] > 100 * worker["looked_through"]


@pytest.fixture
def development(tmp_path, monkeypatch):
    """An application whose database in instance/ is migrated as it starts."""
    monkeypatch.setattr(config, "INSTANCE", tmp_path)
    app = create_app({})
    with app.app_context():
        yield app
        database.engine().dispose()


@pytest.mark.site
def test_development_migrates_no_database_that_needs_it_not(development, tmp_path):
    """Each command and each reload would load Alembic, a fifth of its start."""
    by = f"""
from pathlib import Path
from authsite import config, create_app
config.INSTANCE = Path({str(tmp_path)!r})
assert create_app({{}}).test_client().get("/readyz").status_code == 200
"""
    assert "alembic" not in started({}, by=by)["modules"]


def test_development_migrates_an_older_database(development):
    downgrade()
    assert development.test_client().get("/readyz").status_code == 503

    again = create_app({})
    assert again.test_client().get("/readyz").status_code == 200
    with again.app_context():
        database.engine().dispose()


def test_development_serves_a_newer_database(development):
    """Back on an older branch: as during a release, and as /readyz says."""
    with database.transaction():
        database.run(text("UPDATE alembic_version SET version_num = 'of tomorrow'"))

    again = create_app({})
    assert again.test_client().get("/readyz").status_code == 200
    with again.app_context():
        database.engine().dispose()
