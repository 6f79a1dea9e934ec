"""A Django database backend that runs a bundled PostgreSQL 18.

`base.py` is the backend; `server.py` shares one server between processes; `cluster.py` makes,
starts and stops it; `system.py` is what they need of the operating system. Only the binaries of
the wheel are used, never its Python package.
"""
