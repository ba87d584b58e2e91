"""The tests that are run after each change start no process."""

import os
import subprocess

import pytest

from tests import quick_half


def test_a_test_that_starts_a_process_has_to_say_so():
    with pytest.raises(pytest.fail.Exception, match="mark it `site`"):
        subprocess.run(["true"], check=True)
    with pytest.raises(pytest.fail.Exception, match=r"os\.system"):
        os.system("true")


@pytest.mark.site
def test_one_that_says_so_may():
    subprocess.run(["true"], check=True)


def test_one_that_asks_for_a_server_or_a_browser_is_marked(request):
    items = request.session.items
    asking = [item for item in items if not quick_half.STARTED.keys().isdisjoint(item.fixturenames)]
    assert not any(map(quick_half.is_quick, asking))


@pytest.mark.usefixtures("valkey_url")
def test_and_the_mark_is_that_of_the_server(request):
    assert request.node.get_closest_marker("redis")
