"""Measurements, run by hand and never by pytest; README's section on scale says how.

python -m tests.bench              the floor and ours side by side, requests per second and latency
python -m tests.bench.cleanup      the clean-up of millions of rows under traffic
python -m tests.bench.growth       the hot paths at ten thousand, a million and ten million sessions
python -m tests.bench.export       a large copy of one's data, and what it does to others
python -m tests.bench.claims       whether registering tells who has an account
python -m tests.bench.instances    several machines: two instances, nginx, pgbouncer, a replica

Everything is started here, on loopback, and ended here. Trust ratios of rounds that took turns; figures
belong to the machine and to what else it did.
"""
