"""The documents say what the code says: options, outcomes, states, steps, codes, links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.agent.config import AgentConfig
from hwtrust.device.config import DeviceConfig, HandleConfig, TpmConfig, UpdateConfig
from hwtrust.device.results import Outcome, State

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "backend" / "README.md", ROOT / "packaging" / "device" / "README.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *READMES])
TABLES: dict[str, type[msgspec.Struct]] = {
    "tpm.": TpmConfig,
    "tpm.handles.": HandleConfig,
    "updates.": UpdateConfig,
}
ELSEWHERE = {"tpm", "tpm.handles", "updates", "agent", "layers"}
"""Options that are tables, whose own options stand in their place."""
SUBJECTS = ("agent", "channel", "keystore", "layer", "release", "root", "state", "tpm", "update")


def read(name: str) -> str:
    """One of the documents in docs/."""
    return (ROOT / "docs" / name).read_text()


def written(default: object) -> str:
    """A default as the tables show it."""
    if default is msgspec.NODEFAULT:
        return "required"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and default > 0xFFFF:
        return f"`0x{default:08X}`"
    return "`[]`" if default == () else f"`{default}`"


def options(prefix: str, struct: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """Each option of a table with its default."""
    for field in msgspec.structs.fields(struct):
        if prefix + field.name not in ELSEWHERE:
            yield prefix + field.name, written(field.default)


def first_cells(table: str, heading: str) -> set[str]:
    """What stands in the first column of the table with that heading."""
    _, _, rest = table.partition(f"| {heading} |")
    return set(re.findall(r"^\| `([\w-]+)` \|", rest.split("\n\n")[0], re.MULTILINE))


def test_every_option_of_a_device_is_documented_with_its_default() -> None:
    """No option is missing, none is made up, and each default is today's."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", read("device-configuration.md"), re.MULTILINE
    )
    there = dict(options("", DeviceConfig)) | {"layers.NAME": "required"}
    for prefix, struct in TABLES.items():
        there |= dict(options(prefix, struct))
    assert dict(rows) == there


def test_the_example_of_a_devices_configuration_is_one(tmp_path: Path) -> None:
    """What is copied from the document is read."""
    (example,) = re.findall(r"```toml\n(.*?)```", read("device-configuration.md"), re.DOTALL)
    (tmp_path / "hwtrust.toml").write_text(example)
    config = DeviceConfig.load(tmp_path / "hwtrust.toml")
    assert AgentConfig.of(config.agent).heartbeat == 60
    assert set(tomllib.loads(example)) >= {"tpm", "layers", "updates", "agent"}


def test_every_option_of_the_agent_is_documented() -> None:
    """Rules have a document of their own, and `[[agent.allow]]` as their name."""
    there = {field.name for field in msgspec.structs.fields(AgentConfig)} - {"allow"}
    assert first_cells(read("agent.md"), "option") == there


@pytest.mark.parametrize(
    ("document", "heading", "names"),
    [("updates.md", "outcome", Outcome), ("loading.md", "state", State)],
)
def test_outcomes_and_states_are_all_documented(
    document: str, heading: str, names: type[Outcome | State]
) -> None:
    """Whoever branches on them finds each."""
    assert first_cells(read(document), heading) == {name.value for name in names}


def codes_of_the_code() -> set[str]:
    """Every string of the product that has the form of a code."""
    text = "".join(
        path.read_text()
        for directory in ("hwtrust", "backend/hwtrust_backend")
        for path in sorted((ROOT / directory).rglob("*.py"))
    )
    return set(re.findall(r'"([a-z-]+(?::[a-z-]+)+)"', text))


def test_every_code_that_a_document_names_is_in_the_code() -> None:
    """`update:target:…` stands for all that begin so; anything else is whole."""
    known = codes_of_the_code()
    pattern = rf"`((?:{'|'.join(SUBJECTS)}):[a-z:-]*…?)`"
    named = {code for path in DOCUMENTS for code in re.findall(pattern, path.read_text())}
    assert "update:target:…" in named
    wrong = {
        code
        for code in named
        if code not in known
        and not (code.endswith(":…") and any(one.startswith(code[:-1]) for one in known))
    }
    assert wrong == set()


def layers(text: str) -> list[set[str]]:
    """`a → b | c` as layers, the lowest first."""
    return [set(re.findall(r"\w+", layer)) for layer in text.split("→")]


@pytest.mark.parametrize(
    ("document", "contract"),
    [("README.md", "library-layers"), ("backend/README.md", "backend-layers")],
)
def test_the_layers_that_a_document_shows_are_those_that_are_checked(
    document: str, contract: str
) -> None:
    """Whoever looks for a module's place finds it, and what may import it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (checked,) = (one["layers"] for one in contracts["contracts"] if one["id"] == contract)
    (shown,) = re.findall(
        r"(?:errors|config) (?:→|[\w |]|\n)+ cli\n", (ROOT / document).read_text()
    )
    assert layers(shown) == layers("→".join(reversed(checked)))


def test_links_between_documents_lead_somewhere() -> None:
    """A file, and where a heading is named, a heading of it."""
    dead = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
            name, _, heading = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE) if heading else []
            anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            if not other.exists() or (heading and heading not in anchors):
                dead.append(f"{path.name}: {target}")
    assert dead == []
