"""docs/enclaves.md: its program runs, and its tables are the code's."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from hwtrust.anchors import port
from hwtrust.enclave import Enclave, EnclaveConfig
from hwtrust.errors import all_errors
from hwtrust.layers import reference
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.messages import Release
from hwtrust_backend.testing import BackendServer
from integration.enclave.site import Site, policy_for, snp_rules
from simulators.enclave_machines import SnpMachine

if TYPE_CHECKING:
    from hwtrust.keys import KeyStore

DOCUMENT: Final = Path(__file__).resolve().parents[3] / "docs" / "enclaves.md"


def block(language: str) -> str:
    """The document's only block in that language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert isinstance(found, str)
    return found


class Once(threading.Event):
    """An application that stops after it has worked once, and waits for nothing."""

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it worked."""
        del timeout
        return self.is_set()


def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is printed, on a machine whose kernel is a model: twice, as the same device."""
    machine = SnpMachine()
    program = block("python")
    assert len(program.splitlines()) <= 40
    monkeypatch.setattr(port, "LinuxPort", lambda: machine.kernel)
    with BackendServer(policy=policy_for("snp", snp_rules(machine))) as backend:
        site = Site(tmp_path, machine, backend)
        (tmp_path / "enclave.toml").write_text(block("toml").replace("/opt/app", "app"))
        for token, entries in ((site.token, set()), ("", {"payments/transport"})):
            names: dict[str, Any] = {"__name__": "vendor"}
            exec(compile(program, DOCUMENT.name, "exec"), names)  # noqa: S102 - our own document
            stopped, work = Once(), names["work"]

            def watched(store: KeyStore, *, work: Any = work, stopped: Once = stopped) -> None:  # noqa: ANN401
                assert {entry.name for entry in store.list()} == entries  # noqa: B023
                work(store)
                stopped.set()

            names["work"] = watched
            names["run"](str(tmp_path / "enclave.toml"), token, stopped)
            assert stopped.is_set()


def test_every_option_is_in_the_table() -> None:
    """With its default."""
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", DOCUMENT.read_text(), re.MULTILINE))
    for field in msgspec.structs.fields(EnclaveConfig):
        name = "layers.NAME" if field.name == "layers" else field.name
        default = {"": '`""`', False: "`false`"}.get(field.default, "required")
        assert rows.pop(name) == default
    assert EnclaveKind.SNP in rows


def test_every_kind_and_code_is_one() -> None:
    """The tables name what there is, and all of an enclave's own errors."""
    first = re.findall(r"^\| `([\w:-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {kind.value for kind in EnclaveKind} <= set(first)
    named = {cell for cell in first if ":" in cell}
    assert named <= set(all_errors())
    assert {code for code in all_errors() if code.startswith("enclave:")} <= named


def test_a_configuration_of_another_form_is_refused(tmp_path: Path) -> None:
    """As everywhere: says where, and is a ConfigError."""
    path = tmp_path / "enclave.toml"
    cases = {
        "an unknown option": block("toml") + '\n[other]\nname = "x"\n',
        "no TOML": "= =",
        "no layers": 'state_dir = "s"\ntrust = "t"\nrelease = "r"\n',
    }
    config_error = all_errors()["config"]
    for text in cases.values():
        path.write_text(text)
        with pytest.raises(config_error):
            EnclaveConfig.load(path)
    path.write_text(block("toml"))
    with (
        pytest.raises(config_error),
        Enclave.open(EnclaveConfig.load(path), anchor=SnpMachine().anchor),
    ):
        pass
    release = Release(name="1.0", layers=(reference("other", "1", path),))
    (tmp_path / "release.json").write_bytes(msgspec.json.encode(release))
    with pytest.raises(config_error):
        EnclaveConfig.load(path).read_release()
