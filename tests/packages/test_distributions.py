"""The wheels and source archives of the distributions: what they say, and what is in them."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest
from markdown_it import MarkdownIt
from trove_classifiers import classifiers

from simulators.distributions import DISTRIBUTIONS, PACKAGES, build, sdist_of, wheel_of

NAMES = sorted(DISTRIBUTIONS)
LINKS = {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
DATA = {".css", ".html", ".js", ".mako", ".svg"}
"""What besides Python the backend's pages and migrations are made of."""
BESIDES = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
"""What a source archive holds at its top; .gitignore says to a build what is left out."""


def names_in(archive: Path) -> list[str]:
    """The files of a wheel, or of a source archive without its top directory."""
    if archive.suffix == ".whl":
        return zipfile.ZipFile(archive).namelist()
    with tarfile.open(archive) as tar:
        return [name.partition("/")[2] for name in tar.getnames()]


def unpacked(sdist: Path, into: Path) -> Path:
    """The directory that a source archive holds, by tar: Python 3.11.2 has no safe way."""
    into.mkdir()
    subprocess.run(["tar", "-C", into, "-xf", sdist], check=True)
    (source,) = into.iterdir()
    return source


def metadata(wheel: Path) -> Message:
    """The core metadata of a wheel."""
    with zipfile.ZipFile(wheel) as files:
        (name,) = (one for one in files.namelist() if one.endswith(".dist-info/METADATA"))
        return message_from_string(files.read(name).decode())


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_says_what_an_index_shows(name: str, built: Path) -> None:
    """Summary, licence, links and classifiers are there, and the classifiers are known ones."""
    said = metadata(wheel_of(built, name))
    assert said["Name"] == name
    assert said["Summary"]
    assert said["License-Expression"] == "Apache-2.0"
    assert said["License-File"] == "LICENSE"
    assert said["Requires-Python"] == ">=3.11"
    links = [text.split(", ", 1) for text in said.get_all("Project-URL", [])]
    assert {label for label, _ in links} == LINKS
    assert all(url.startswith("https://") for _, url in links)
    shown = said.get_all("Classifier", [])
    assert set(shown) <= classifiers
    assert "Typing :: Typed" in shown
    versions = {text for text in shown if re.fullmatch(r".*:: 3\.\d+", text)}
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= versions


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("hwtrust", {"device", "enclaves"}),
        ("hwtrust-backend", {"otel", "postgresql"}),
        ("hwtrust-device", {"tpm"}),
    ],
)
def test_a_wheel_offers_its_extras(name: str, extras: set[str], built: Path) -> None:
    """Each extra brings something."""
    said = metadata(wheel_of(built, name))
    assert set(said.get_all("Provides-Extra", [])) == extras
    for extra in extras:
        assert any(f"extra == '{extra}'" in one for one in said.get_all("Requires-Dist", []))


@pytest.mark.parametrize("name", NAMES)
def test_the_description_is_the_readme_and_renders(name: str, built: Path) -> None:
    """An index shows the README, as CommonMark with tables."""
    said = metadata(wheel_of(built, name))
    assert said["Description-Content-Type"] == "text/markdown"
    readme = (DISTRIBUTIONS[name] / "README.md").read_text()
    assert str(said.get_payload()).strip() == readme.strip()
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(readme)
    assert f"<h1>{name}</h1>" in html
    assert html.count("<pre>") >= 2
    assert "&lt;/" not in re.sub(r"<(pre|code)>?.*?</\1>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_holds_modules_types_and_data_and_nothing_else(name: str, built: Path) -> None:
    """No test, no cache, no file of a development machine reaches a user."""
    package = PACKAGES[name]
    wheel = wheel_of(built, name)
    names = names_in(wheel)
    info = f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"
    inside = {one for one in names if not one.startswith(f"{info}/")}
    # The root of `hwtrust` is in the distribution that comes with each of the others.
    first = {f"{package}/__init__.py", f"{package}/py.typed"}
    assert first & inside == (set() if name == "hwtrust" else first)
    allowed = {".py", *DATA} if name == "hwtrust-backend" else {".py"}
    strange = {
        one
        for one in inside - {f"{package}/py.typed"}
        if PurePosixPath(one).suffix not in allowed
        or not one.startswith(f"{package}/")
        or re.search(r"(^|/)(tests?|__pycache__|\.[^/]*|conftest\.py|test_[^/]*)(/|$)", one)
    }
    assert strange == set()
    assert {one.removeprefix(f"{info}/") for one in names if one.startswith(info)} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "licenses/LICENSE",
        *(["entry_points.txt"] if name != "hwtrust-device" else []),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_distribution_carries_the_licence(name: str, built: Path) -> None:
    """The text itself, also in the source archive, where a link would lead nowhere."""
    licence = (DISTRIBUTIONS["hwtrust"] / "LICENSE").read_bytes()
    with tarfile.open(sdist_of(built, name)) as tar:
        (member,) = (one for one in tar.getmembers() if one.name.endswith("/LICENSE"))
        assert member.isfile()
        kept = tar.extractfile(member)
        assert kept is not None
        assert kept.read() == licence
    with zipfile.ZipFile(wheel_of(built, name)) as files:
        (one,) = (one for one in files.namelist() if one.endswith("/LICENSE"))
        assert files.read(one) == licence


@pytest.mark.parametrize("name", NAMES)
def test_a_source_archive_holds_the_package_and_what_builds_it(name: str, built: Path) -> None:
    """The same modules as the wheel, with licence, README and pyproject.toml."""
    package = PACKAGES[name]
    source = set(names_in(sdist_of(built, name)))
    modules = {one for one in names_in(wheel_of(built, name)) if one.startswith(f"{package}/")}
    assert source == modules | BESIDES


@pytest.mark.parametrize("name", NAMES)
def test_two_builds_are_the_same_to_the_byte(name: str, built: Path, tmp_path: Path) -> None:
    """Whoever has the source can check a wheel: neither time nor place nor umask is in it."""
    source = unpacked(sdist_of(built, name), tmp_path / "elsewhere")
    subprocess.run(["chmod", "-R", "go-rwx", source], check=True)
    build(tmp_path, source)
    build(tmp_path / "again", DISTRIBUTIONS[name])
    for find in (wheel_of, sdist_of):
        first = find(built, name).read_bytes()
        assert find(tmp_path / "again", name).read_bytes() == first
    assert wheel_of(tmp_path, name).read_bytes() == wheel_of(built, name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_module_changes_the_wheel(name: str, built: Path, tmp_path: Path) -> None:
    """That two builds are alike says something: one byte of the source makes another wheel."""
    source = unpacked(sdist_of(built, name), tmp_path / "source")
    module = min((source / PACKAGES[name]).rglob("*.py"))
    module.write_text(f"{module.read_text()}\n")
    build(tmp_path, source)
    assert wheel_of(tmp_path, name).read_bytes() != wheel_of(built, name).read_bytes()


def test_the_changelog_is_about_the_version_that_is_built() -> None:
    """What is released is what the changelog's first heading names."""
    version = tomllib.loads((DISTRIBUTIONS["hwtrust"] / "pyproject.toml").read_text())
    changelog = (DISTRIBUTIONS["hwtrust"] / "CHANGELOG.md").read_text()
    first, *_ = re.findall(r"^## ([\d.]+)", changelog, re.MULTILINE)
    assert first == version["project"]["version"]
