"""Who registers an address where addresses are confirmed first (EMAIL_VERIFICATION=required) learns nothing.

Pairs of requests for an address that has an account and for one that has none, which of them first by turns,
over the wire to the service as the Procfile runs it, with a mail server that takes the mails. Prints the
median of either kind, whether every answer of a pair is the same to the byte, headers included, and how many
mails each address got.
"""

import argparse
import collections
import http.client
import json
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from tests import services
from tests.bench import rows, sites

WARMING_UP = 5
PAUSE = 0.25  # the mail of one request shall not be sent during the next
MOST_MS = 5.0
OF_THE_MOMENT = {"date"}


class Answer(NamedTuple):
    """What came back, without what tells the time, and the milliseconds that it took."""

    seen: tuple[int, bytes, tuple[tuple[str, str], ...]]
    took: float


def main() -> None:
    options = _options()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {sites.machine()}")
    with ExitStack() as stack:
        postgresql = stack.enter_context(services.postgresql_server())
        redis_url = stack.enter_context(services.valkey_server()).url
        url = stack.enter_context(services.new_database(postgresql.url))
        mailbox = stack.enter_context(services.Mailbox())
        pairs = WARMING_UP + options.pairs
        rows.fill(url, rows.Scale(pairs, pairs))
        environ = sites.production(url, redis_url) | {
            "EMAIL_VERIFICATION": "required",
            "MAIL_PORT": str(mailbox.port),
        }
        server = sites.Server(sites.command("gunicorn", 2), environ, workers=2)
        site = stack.enter_context(server)
        found: dict[str, list[float]] = {"known": [], "unknown": []}
        different = 0
        for number in range(pairs):
            answers = _ask_both(site.url, number)
            different += len({each.seen for each in answers.values()}) > 1
            if number >= WARMING_UP:
                for kind, answer in answers.items():
                    found[kind].append(answer.took)
        services.wait_until(lambda: len(mailbox.messages) >= 2 * pairs, seconds=30, what="the mail")
        _tell(found, different, mailbox)


def _tell(found: dict[str, list[float]], different: int, mailbox: services.Mailbox) -> None:
    medians = {kind: median(times) for kind, times in found.items()}
    apart = abs(medians["known"] - medians["unknown"])
    for kind, times in found.items():
        print(
            f"{kind:8} {medians[kind]:6.1f} ms in the median, {min(times):.1f} to {max(times):.1f}"
        )
    print(f"medians {apart:.1f} ms apart {_verdict(apart <= MOST_MS)}")
    print(f"pairs of different answers: {different} {_verdict(not different)}")
    mails = collections.Counter(to for recipients in mailbox.recipients for to in recipients)
    by_subject = collections.Counter(mailbox.subjects)
    print(f"mails: {dict(by_subject)}; one to each address {_verdict(set(mails.values()) == {1})}")


def _verdict(is_so: bool) -> str:
    return "met" if is_so else "MISSED"


def _ask_both(url: str, number: int) -> dict[str, Answer]:
    """Register both kinds of address, each from a client of its own, and return the answers."""
    emails = {"known": f"user{number}@example.com", "unknown": f"none{number}@example.com"}
    kinds = sorted(emails, reverse=bool(number % 2))
    request_id = str(uuid.uuid4())
    answers = {}
    for place, kind in enumerate(kinds):
        answers[kind] = _ask(url, emails[kind], f"10.1.{number}.{place}", request_id)
        time.sleep(PAUSE)
    return answers


def _ask(url: str, email: str, address: str, request_id: str) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.connect()
    headers = {
        "Content-Type": "application/json",
        "X-Forwarded-For": address,
        "X-Forwarded-Proto": "https",
        "X-Request-Id": request_id,
    }
    body = json.dumps({"email": email, "password": rows.PASSWORD, "first_name": "Ada"})
    begun = time.perf_counter()
    connection.request("POST", "/api/v1/auth/register", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    took = (time.perf_counter() - begun) * 1000
    connection.close()
    assert answer.status == 202, content
    told = tuple(each for each in answer.getheaders() if each[0].lower() not in OF_THE_MOMENT)
    return Answer((answer.status, content, told), took)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench.claims", description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
