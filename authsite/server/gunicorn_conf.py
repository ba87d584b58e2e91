"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import os

from gunicorn.workers.gthread import ThreadWorker

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
threads = 4  # at work at once; see authsite/server/threads.py
MOST_THREADS = 64  # with those that wait
timeout = 25
graceful_timeout = 20
keepalive = 95  # longer than the router's 90, so that it never meets a closing connection
max_requests = 200_000
max_requests_jitter = 20_000
control_socket_disable = True
forwarded_allow_ips = ""  # whom to believe about addresses is TRUSTED_PROXY_HOPS, and nothing else
accesslog = None  # each request is logged by the application, with its id


class ElasticThreadWorker(ThreadWorker):
    """gunicorn's gthread with threads of our own."""

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # Not before the fork: what the main process has imported, a reload (SIGHUP) does not renew. Nor
        # before the signals have their handlers: a SIGTERM while the worker imports would be lost.
        from authsite.server.threads import ElasticThreads

        self.tpool = ElasticThreads(self.cfg.threads, MOST_THREADS)


worker_class = ElasticThreadWorker
