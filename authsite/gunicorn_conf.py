"""gunicorn's settings, named by the Procfile. Heroku's router gives up after 30 s: everything stays below."""

import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_class = "gthread"
# Two to four threads were as fast as eight, with a lower p99; each one keeps 19 MiB after it has hashed.
threads = 4
timeout = 25
graceful_timeout = 20
keepalive = 95  # longer than the router's 90, so that it never meets a closing connection
max_requests = 200_000
max_requests_jitter = 20_000
control_socket_disable = True
accesslog = None  # each request is logged by the application, with its id
