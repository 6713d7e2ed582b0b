"""Reading CLIENT LIST: who works on a queue."""

from __future__ import annotations

import pytest

from heavyq.bullmq.clients import ClientInfo, workers_in
from heavyq.bullmq.keys import QueueKey

Q = QueueKey("bull", "a")
LINES = """\
id=3 addr=127.0.0.1:4 laddr=127.0.0.1:5 fd=8 name=bull:YQ== age=12 idle=3 flags=b db=0 cmd=bzpopmin user=default
id=4 addr=127.0.0.1:6 laddr=127.0.0.1:5 fd=9 name=bull:YQ==:w:wk:1=x age=1 idle=0 flags=b lib-name= cmd=bzpopmin
id=5 addr=127.0.0.1:7 name=bull:YQ==:qe age=1 idle=0
id=6 addr=127.0.0.1:8 name=bull:YQ==x age=1 idle=0
id=7 addr=127.0.0.1:9 name= age=1 idle=0
id=8 addr=/tmp/s:0 name=other:YQ== age=1 idle=0
"""
FOUND = [
    ClientInfo(name=None, rawname="bull:YQ==", addr="127.0.0.1:4", id=3, age_s=12, idle_s=3),
    ClientInfo(name="wk:1=x", rawname="bull:YQ==:w:wk:1=x", addr="127.0.0.1:6", id=4, age_s=1, idle_s=0),
]


def test_workers_are_known_by_the_names_of_their_connections():
    assert workers_in(LINES, Q) == FOUND
    assert workers_in(LINES.encode(), Q) == FOUND
    assert workers_in(LINES, QueueKey("bull", "b")) == []


def test_rows_that_a_client_library_has_read_already():
    rows = [dict(part.split("=", 1) for part in line.split()) for line in LINES.splitlines()]
    assert workers_in(rows, Q) == FOUND
    assert workers_in([{**rows[0], "id": 3, "age": 12}], Q) == FOUND[:1]


@pytest.mark.parametrize("text", ["", "\n", "id=x name=bull:YQ==", "name=bull:YQ== id="])
def test_lines_that_say_less_are_read_all_the_same(text):
    assert [info.id for info in workers_in(text, Q)] == ([0] if text.strip() else [])
