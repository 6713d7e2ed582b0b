"""Hooks and the public names."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import heavyq
from heavyq.errors import BadValue
from heavyq.queue import registry
from tests.support.fresh import forget_declarations


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_declarations(monkeypatch)


@pytest.mark.parametrize("kind", ["preload", "canary", "child_start", "child_stop"])
def test_hooks_are_kept_in_order_and_stay_plain_functions(kind: str) -> None:
    decorate = getattr(heavyq, kind)
    calls: list[int] = []
    hooks = [decorate(lambda n=n: calls.append(n)) for n in range(3)]
    registered = getattr(registry, f"{kind}_hooks")
    assert registered == hooks
    for hook in registered:
        hook()
    assert calls == [0, 1, 2]


def test_a_module_that_is_run_again_leaves_each_hook_once() -> None:
    text = "from heavyq import preload\n@preload\ndef _(): return 1\n@preload\ndef _(): return 2\n"
    for _ in range(2):
        exec(compile(text, "shop.py", "exec"), {"__name__": "shop"})
    assert [hook() for hook in registry.preload_hooks] == [1, 2]


def test_a_function_that_is_decorated_twice_is_one_hook() -> None:
    def load() -> None: ...

    heavyq.preload(heavyq.preload(load))
    assert registry.preload_hooks == [load]


def test_a_decorator_that_is_called_with_no_function_says_so() -> None:
    with pytest.raises(BadValue, match="@child_start takes a function"):
        heavyq.child_start("name")  # type: ignore[type-var]


# ---- public names ----


def python(code: str) -> Any:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def test_importing_heavyq_imports_no_redis_and_no_pydantic() -> None:
    code = "import sys, heavyq, json; print(json.dumps(sorted(sys.modules)))"
    loaded = python(code)
    assert not {"redis", "pydantic", "pydantic_core", "typer", "structlog", "asyncio"} & set(loaded)
    assert [name for name in loaded if name.startswith("heavyq.")] == []


def test_naming_a_queue_without_types_imports_no_redis_and_no_pydantic() -> None:
    code = (
        "import sys, json\nfrom heavyq import HEAVY, Queue, fixed, preload\n"
        "Queue('q', profile=HEAVY, backoff=fixed(1)).processor(print)\nprint(json.dumps(sorted(sys.modules)))"
    )
    assert not {"redis", "pydantic", "pydantic_core", "asyncio"} & set(python(code))


def test_every_public_name_is_there() -> None:
    for name in heavyq.__all__:
        assert getattr(heavyq, name) is not None
    assert set(heavyq.__all__) <= set(dir(heavyq))
    assert heavyq.__all__ == sorted(heavyq.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert heavyq.__version__
    with pytest.raises(AttributeError, match="has no attribute 'Quue'"):
        getattr(heavyq, "Quue")  # noqa: B009 - a type checker sees the mistake


def test_every_error_that_a_user_may_meet_is_public() -> None:
    from heavyq import errors

    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert ours - set(heavyq.__all__) == {"UsageError", "ProtocolError", "Unreadable"}
