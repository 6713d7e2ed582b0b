"""Importing modules: what a name means, and the one line for an import that fails."""

from __future__ import annotations

import sys

import pytest

from heavyq.config import import_modules, why_it_does_not_import
from heavyq.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder, files):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def failure(*names):
    with pytest.raises(BaseException) as caught:
        import_modules(names)
    return why_it_does_not_import(caught.value, names)


def test_module_is_found_in_the_current_folder(folder):
    write(folder, {"hq_app1.py": "X = 1"})
    assert import_modules(["hq_app1"]) == ("hq_app1",)
    assert sys.modules["hq_app1"].X == 1


def test_star_is_the_package_and_all_below_it_but_its_program(folder):
    write(
        folder,
        {
            "hq_pkg1/__init__.py": "",
            "hq_pkg1/__main__.py": "raise SystemExit('a program')",
            "hq_pkg1/a.py": "",
            "hq_pkg1/sub/__init__.py": "",
            "hq_pkg1/sub/b.py": "",
        },
    )
    assert import_modules(["hq_pkg1.*"]) == ("hq_pkg1", "hq_pkg1.a", "hq_pkg1.sub", "hq_pkg1.sub.b")


def test_broken_package_below_a_star_is_not_skipped(folder):
    write(folder, {"hq_pkg2/__init__.py": "", "hq_pkg2/sub/__init__.py": "import hq_not_there"})
    assert "hq_not_there" in failure("hq_pkg2.*")


def test_missing_module_is_told_apart_from_one_missing_inside(folder):
    write(folder, {"hq_app2.py": "import hq_not_there"})
    assert failure("hq_nowhere.x").startswith(f"there is no module hq_nowhere in {folder}")
    inside = failure("hq_app2")
    assert "No module named 'hq_not_there'" in inside
    assert inside.endswith("hq_app2.py:1)")


def test_exception_on_import_is_one_line_with_its_place(folder):
    write(folder, {"hq_app3.py": "\n\nraise ValueError('two\\nlines')"})
    assert failure("hq_app3") == f"ValueError: two ({folder}/hq_app3.py:3)"


def test_exit_on_import_is_told_too(folder):
    write(folder, {"hq_app4.py": "raise SystemExit(3)"})
    why, _, todo = failure("hq_app4").partition("; ")
    assert why == f"SystemExit: 3 ({folder}/hq_app4.py:1)"
    assert 'below `if __name__ == "__main__":`' in todo


def test_syntax_error_names_its_line(folder):
    write(folder, {"hq_app5.py": "x = 1\ndef f(:\n"})
    assert failure("hq_app5") == f"SyntaxError: invalid syntax ({folder}/hq_app5.py:2)"


@pytest.mark.parametrize(("name", "words"), [("shop/app.py", "shop.app"), ("app.py", "app"), ("./app.py", "app")])
def test_file_name_is_answered_with_the_module_name(name, words):
    with pytest.raises(ConfigError, match=f"is a file name; a module is named with dots: {words}$"):
        import_modules([name])


@pytest.mark.parametrize("name", ["", "a..b", "a b", "-x", "*"])
def test_what_is_no_module_name_is_refused(name):
    with pytest.raises(ConfigError, match="no module name"):
        import_modules([name])


def test_star_after_a_plain_module_is_refused(folder):
    write(folder, {"hq_app6.py": ""})
    with pytest.raises(ConfigError, match="is a module, no package; write hq_app6"):
        import_modules(["hq_app6.*"])
