"""`hwtrust release create`: what the vendor hands in is what a device will measure."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from hwtrust.cli import run
from hwtrust.cli.release import create
from hwtrust.errors import ConfigError, HwTrustError, LayerError, ManifestError
from hwtrust.layers import measure
from hwtrust.updates import bundle as making
from hwtrust.updates.archive import pack, unpack
from hwtrust.wire.release import LayerKind, ReleaseManifest, decode_manifest

PLAN = """
name = "2026.11"
[[layer]]
name = "kernel"
path = "build/kernel"
version = "6.1"
frequency = "monthly"
note = "signed"
[[layer]]
name = "www"
path = "build/www"
version = "2"
frequency = "weekly"
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of a file and a tree."""
    (tmp_path / "build" / "www" / "css").mkdir(parents=True)
    (tmp_path / "build" / "kernel").write_bytes(b"a kernel")
    (tmp_path / "build" / "www" / "index.html").write_text("a page")
    (tmp_path / "build" / "www" / "css" / "page.css").write_text("a style")
    (tmp_path / "build" / "www" / "start").symlink_to("index.html")
    path = tmp_path / "release.toml"
    path.write_text(PLAN)
    return path


def made(plan: Path, bundle: Path) -> ReleaseManifest:
    """Make a bundle; gives its manifest."""
    assert run(["release", "create", str(bundle), "--manifest", str(plan)]) == 0
    return decode_manifest((bundle / "releases" / "2026.11.json").read_bytes())


def refused(plan: Path, bundle: Path) -> HwTrustError:
    """The error of a bundle that is not made."""
    with pytest.raises(HwTrustError) as caught:
        create.main(
            args=[str(bundle), "--manifest", str(plan)], standalone_mode=False, prog_name="create"
        )
    assert not bundle.exists()
    assert not list(bundle.parent.glob(f".{bundle.name}.*"))
    return caught.value


def test_a_bundle_has_the_layers_in_order_with_the_digests_that_devices_measure(
    plan: Path, tmp_path: Path
) -> None:
    """A file as it is; a tree as an archive that unpacks to what was measured."""
    bundle = tmp_path / "bundle"
    manifest = made(plan, bundle)
    kernel, www = manifest.layers
    assert (kernel.name, kernel.kind, kernel.note) == ("kernel", LayerKind.FILE, "signed")
    assert kernel.digest == hashlib.sha256((bundle / kernel.target).read_bytes()).digest()
    assert (www.name, www.kind, www.frequency) == ("www", LayerKind.TREE, "weekly")
    assert www.digest == measure(tmp_path / "build" / "www")
    with (bundle / www.target).open("rb") as archive:
        unpack(archive, tmp_path / "unpacked", limit=2**20)
    assert measure(tmp_path / "unpacked") == www.digest


def test_the_same_layers_give_the_same_bundle(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last byte, where the time is given (SOURCE_DATE_EPOCH)."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    contents = []
    for name in ("one", "two"):
        assert made(plan, tmp_path / name).created_at == 1_790_000_000_000
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


PLANS: dict[str, tuple[str, type[HwTrustError]]] = {
    "no TOML": ("name = ", ConfigError),
    "no layers": ('name = "1"', ConfigError),
    "an unknown field": (PLAN + "colour = 1\n", ConfigError),
    "a name that is a path": (PLAN.replace("2026.11", "../x"), ManifestError),
    "a version that is a path": (PLAN.replace('"6.1"', '"../6"'), ManifestError),
    "two layers of one name": (PLAN.replace('"www"', '"kernel"'), ManifestError),
    "a layer that changes as often as nobody knows": (
        PLAN.replace('"weekly"', '"wekly"'),
        ConfigError,
    ),
    "a layer that is not there": (PLAN.replace("build/www", "build/none"), LayerError),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_cannot_be_followed_makes_nothing(
    plan: Path, tmp_path: Path, case: str
) -> None:
    """A typed error, and no half bundle."""
    content, kind = PLANS[case]
    plan.write_text(content)
    assert isinstance(refused(plan, tmp_path / "bundle"), kind)


def test_a_plan_that_is_missing_is_said(tmp_path: Path) -> None:
    """As a wrong configuration."""
    assert isinstance(refused(tmp_path / "none.toml", tmp_path / "bundle"), ConfigError)


def test_a_time_that_is_none_is_refused(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that means to be reproducible is not made with another time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert isinstance(refused(plan, tmp_path / "bundle"), ConfigError)


def test_an_existing_bundle_is_not_touched(plan: Path, tmp_path: Path) -> None:
    """What was handed in stays what it was."""
    made(plan, tmp_path / "bundle")
    assert run(["release", "create", str(tmp_path / "bundle"), "--manifest", str(plan)]) == 9


def test_a_layer_that_changes_while_it_is_packed_is_refused(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest never names a digest that the archive does not have."""
    original = pack

    def changing(tree: Path, target: io.BufferedWriter) -> None:
        (tree / "index.html").write_text("another page")
        original(tree, target)

    monkeypatch.setattr(making, "pack", changing)
    error = refused(plan, tmp_path / "bundle")
    assert error.code == "layer:unreadable"
