# SPDX-License-Identifier: LGPL-2.1-or-later
"""``info --json`` and ``check --json`` on real dumps and cores are as their schemas and pages say."""

import json
import lzma
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")
jsonschema = pytest.importorskip("jsonschema")

from kgcore.cli.commands import COMMANDS
from tests.schemas import strict
from tests.vmcore import reshape
from tests.vmcore.conftest import COMMITTED, need
from tests.vmcore.tools import kgcore

PACKAGE = Path(__file__).parents[2] / "kgcore"
DOCS = PACKAGE.parent / "docs"
SCHEMAS = {name: json.loads((PACKAGE / "schemas" / f"{name}.schema.json").read_text()) for name in ("info", "check")}


def printed(name: str, *words: object, cwd: Path, status: int = 0) -> Any:
    """What a command says as JSON, which is as the schema says."""
    done = kgcore(name, "--json", *words, cwd=cwd)
    assert done.status == status, done.remarks
    value = json.loads(done.raw)
    assert errors(name, value) == []
    return value


def errors(name: str, value: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(strict(SCHEMAS[name])).iter_errors(value)]


def test_the_schemas_are_schemas() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def name_of(path: Path) -> str:
    return path.relative_to(COMMITTED).parts[0]


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*[!e]-small/vmcore")), ids=name_of)  # 686-pae needs its types
def test_info_on_small_dumps(path: Path) -> None:
    found = printed("info", "-c", path, cwd=path.parent)
    assert found["release"]
    assert found["stored"] > 0


@pytest.mark.parametrize("name", ["k61", "k72", "k61-kexec", "k61-novmcoreinfo"])
def test_info_on_dumps_of_every_kind(name: str) -> None:
    fixture = need(name)
    for dump in fixture.manifest["dumps"]:
        if not dump.get("error"):
            printed("info", "-c", fixture.dump(dump["file"]), cwd=fixture.path)


def test_info_on_a_dump_that_was_cut_off(tmp_path: Path) -> None:
    whole = need("k61").dump("vmcore.d17-zlib")
    reshape.truncated(whole, tmp_path / "vmcore", whole.stat().st_size - 200_000)
    found = printed("info", cwd=tmp_path)
    assert found["missing_bytes"] == 200_000
    assert found["notices"]


# One of each kernel.
CORES = {name_of(path): path for path in sorted(COMMITTED.glob("*/truth/cores/*"))}


@pytest.mark.parametrize("path", CORES.values(), ids=CORES)
def test_check_on_cores_of_the_kernel(path: Path, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(lzma.decompress(path.read_bytes()))
    found = printed("check", core, cwd=tmp_path)
    assert found["complete"] is None
    assert found["facts"]["threads"]
    core.write_bytes(core.read_bytes()[:5000])
    assert printed("check", core, cwd=tmp_path, status=1)["problems"]


def test_check_on_cores_and_directories_of_ours(tmp_path: Path) -> None:
    dump = COMMITTED / "k61-crash-small" / "vmcore"
    assert kgcore("-c", dump, "--sysroot", "dir", "110", cwd=tmp_path).status == 3
    found = printed("check", "core.110", cwd=tmp_path, status=3)
    assert found["facts"]["kgcore"]["tgid"] == 110
    assert found["facts"]["recovered"]
    found = printed("check", "dir", cwd=tmp_path, status=3)
    assert found["files"]
    file = tmp_path / "dir" / found["files"][0]["path"].lstrip("/")
    file.write_bytes(file.read_bytes()[:100])
    assert printed("check", "dir", cwd=tmp_path, status=1)["files"][0]["problems"]
    shutil.copy(__file__, tmp_path / "text")
    assert list(printed("check", "text", cwd=tmp_path, status=1)["facts"]) == ["size"]


def test_the_schemas_are_not_lenient(tmp_path: Path) -> None:
    """They would notice what breaks the promise."""
    dump = COMMITTED / "k61-crash-small" / "vmcore"
    info = json.dumps(printed("info", "-c", dump, cwd=tmp_path))
    kgcore("-c", dump, "--sysroot", "dir", "110", cwd=tmp_path)
    core = json.dumps(printed("check", "core.110", cwd=tmp_path, status=3))
    directory = json.dumps(printed("check", "dir", cwd=tmp_path, status=3))
    for name, good, old, new in (
        ("info", info, '"version": 1', '"version": 2'),
        ("info", info, '"user_memory": "', '"user_memory": "un'),
        ("info", info, '"stored": ', '"stored": -'),
        ("info", info, '"panic"', '"panics"'),
        ("check", core, '"complete": false', '"complete": "no"'),
        ("check", core, '"threads"', '"lwps"'),
        ("check", core, '"class": 64', '"class": 65'),
        ("check", directory, '"lost"', '"gone"'),
        ("check", directory, '"symbols": "', '"symbols": "no'),
    ):
        assert old in good
        assert errors(name, json.loads(good.replace(old, new))), (old, new)


def keys(schema: Any) -> Iterator[str]:
    yield from schema.get("properties", ())
    for part in schema.get("$defs", {}).values():
        yield from part["properties"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_in_the_documentation(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(keys(SCHEMAS[name]))


def test_every_command_with_json_has_a_schema_and_a_page() -> None:
    from importlib import import_module

    for name, module in COMMANDS.items():
        if "--json" in import_module(module).make_parser()._option_string_actions:
            assert (PACKAGE / "schemas" / f"{name}.schema.json").exists(), name
            assert (DOCS / f"{name}.md").exists(), name
