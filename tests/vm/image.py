"""What the VM boots: Debian's kernel, an initramfs that leads to the host's root, a signed image.

    linux-image-… (apt, unpacked)  ->  kernel, modules  -+
    busybox, GUEST, the two scripts below               -+->  initramfs  ->  unified kernel image

Rules:
1. Nothing is installed: packages are unpacked into a cache, whole or not at all, so
   that several processes may fill it at once.
2. The order in which modules are loaded is read from the modules; kernels differ in it.
3. The image is signed by the snakeoil key that comes with OVMF, which its variables
   trust. It signs nothing that anybody should believe.
4. Run as a program, `python -m vm.image`, it fills the cache and makes nothing.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Keep = Callable[[tarfile.TarFile, Path], None]

GUEST: Final = Path(__file__).with_name("guest.py")
SUSPEND: Final = "hwtrust.suspend"
"""On the kernel's command line: sleep in the start."""
SUSPENDED: Final = "/run/vm/suspended"
"""In the VM: PCRs and clock as the TPM said, `…-before` and `…-after`."""

_OVMF: Final = Path("/usr/share/ovmf")
_WANTED: Final = ("virtio_pci", "virtio_console", "virtio_net", "virtio_blk")
_WANTED_FILE_SYSTEMS: Final = ("9pnet_virtio", "9p", "overlay", "ext4", "crc32c_generic")
_STUB: Final = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_OS_RELEASE: Final = 'ID=hwtrust-vm\nVERSION_ID=1\nPRETTY_NAME="VM of tests"\n'

_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
stop() { echo "vm: $*" >/dev/console; poweroff -f; }
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
case "$(cat /proc/cmdline)" in *hwtrust.suspend*) . /suspend ;; esac
for module in $(cat /modules/order); do insmod /modules/$module.ko || stop "module $module"; done
share=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o ro,$share,cache=loose host /lower || stop "the host's root"
mount -t tmpfs t /upper && mkdir /upper/u /upper/w || stop tmpfs
mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w o /root || stop overlay
mkdir -p /root/var/lib/hwtrust
mount -t ext4 /dev/vda /root/var/lib/hwtrust || stop "the disk"
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up || stop "the network"
for directory in dev proc sys; do mount --move /$directory /root/$directory; done
mount -t tmpfs -o mode=755 t /root/run
mount -t securityfs s /root/sys/kernel/security
mkdir -p /root/dev/shm /root/dev/pts /root/run/lock /root/run/vm
mount -t tmpfs t /root/dev/shm; mount -t devpts p /root/dev/pts
chmod 1777 /root/dev/shm
cat /ima-policy >/root/sys/kernel/security/ima/policy || stop "IMA's policy"
cp /bin/busybox /guest.py /start /root/run/vm/
if [ -d /suspended ]; then cp -r /suspended /root/run/vm/; fi
exec switch_root /root /bin/sh /run/vm/start
"""

# Runs while there is nothing but the initramfs: the root's 9p would not resume. PCR 14 is
# extended (TPM2_PCR_Event), so that a TPM which was reset is told from one that was resumed.
_SUSPEND: Final = r"""\
mkdir /suspended
look() {
  for bank in sha1 sha256; do
    for pcr in /sys/class/tpm/tpm0/pcr-$bank/*; do echo "$bank:${pcr##*/} $(cat $pcr)"; done
  done >/suspended/pcrs-$1
  exec 3<>/dev/tpm0
  printf '\200\001\000\000\000\012\000\000\001\201' >&3
  dd bs=4096 count=1 <&3 2>/dev/null >/suspended/clock-$1
  exec 3>&-
}
exec 3<>/dev/tpm0
printf '\200\002\000\000\000\041\000\000\001\074\000\000\000\016\000\000\000\011' >/event
printf '\100\000\000\011\000\000\000\000\000\000\004test' >>/event
dd if=/event bs=4096 count=1 2>/dev/null >&3
dd bs=4096 count=1 <&3 2>/dev/null >/dev/null
exec 3>&-
look before
echo 0 >/sys/class/rtc/rtc0/wakealarm
echo +5 >/sys/class/rtc/rtc0/wakealarm
echo deep >/sys/power/mem_sleep
echo mem >/sys/power/state || stop "no suspend"
look after
"""

# Everything that root reads, as `ima_policy=tcb` has it, is hashed anew at each reading, because
# 9p tells of no changes. The number is that of ext4, where only /var/lib/hwtrust lies.
_IMA_POLICY: Final = """\
measure func=BPRM_CHECK mask=MAY_EXEC uid=0
measure func=FILE_CHECK mask=MAY_READ fsmagic=0xef53
"""

_START: Final = """\
udevd=$(command -v systemd-udevd || echo /lib/systemd/systemd-udevd)
"$udevd" --daemon
udevadm trigger -c add -s tpm -s tpmrm
udevadm settle -t 180
{python} -I /run/vm/guest.py {ports} >/dev/console 2>&1
sync
mount -o remount,ro /var/lib/hwtrust
exec /run/vm/busybox poweroff -f
"""


class ImageError(Exception):
    """What the VM is made from cannot be had; says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: its `image`, and the directory of the `modules` that the VM loads."""

    version: str
    image: Path
    modules: Path


def cache_directory() -> Path:
    """Where unpacked packages are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hwtrust" / "vm"


def kernel() -> Kernel:
    """Debian's present kernel, from the cache or from Debian.

    Raises:
        ImageError: apt knows no kernel, or cannot download it.
    """
    shown = _output("apt-cache", "depends", "linux-image-amd64")
    found = re.search(r"Depends: (linux-image-(\S+))", shown)
    if found is None:
        message = "apt knows no package linux-image-amd64: run apt-get update, on a Debian"
        raise ImageError(message)
    directory = _unpacked(found[1], _keep_kernel)
    return Kernel(found[2], directory / "vmlinuz", directory / "modules")


def initramfs(target: Path, *, modules: Path, python: Path, ports: tuple[int, ...]) -> None:
    """Write an initramfs whose VM runs GUEST with `python` on the host's root.

    In the VM, `ports` of its loopback lead to those of the host.
    """
    directories = ("bin", "dev", "proc", "sys", "lower", "upper", "root", "modules")
    start = _START.format(python=python, ports=" ".join(map(str, ports)))
    files = {
        "init": _INIT.encode(),
        "start": start.encode(),
        "suspend": _SUSPEND.encode(),
        "ima-policy": _IMA_POLICY.encode(),
        "guest.py": GUEST.read_bytes(),
        "bin/busybox": Path(_program("busybox")).read_bytes(),
        **{f"modules/{path.name}": path.read_bytes() for path in sorted(modules.iterdir())},
    }
    archive = b"".join(
        [
            *(_newc(name, stat.S_IFDIR | 0o755, b"") for name in directories),
            *(_newc(name, stat.S_IFREG | 0o755, content) for name, content in files.items()),
            _newc("TRAILER!!!", 0, b""),
        ]
    )
    target.write_bytes(gzip.compress(archive, compresslevel=1))


def signed_image(directory: Path, *, kernel: Kernel, initrd: Path, command_line: str) -> None:
    """Make `directory` an EFI system partition that starts a signed unified kernel image.

    Raises:
        ImageError: the stub, objcopy or sbsign cannot be had.
    """
    stub = _stub()
    target = directory / "EFI" / "BOOT" / "BOOTX64.EFI"
    target.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="hwtrust-vm-") as name:
        work = Path(name)
        (work / "osrel").write_text(_OS_RELEASE)
        (work / "cmdline").write_text(command_line)
        (work / "uname").write_text(kernel.version)
        sections = {name: work / name for name in ("osrel", "cmdline", "uname")}
        sections |= {"linux": kernel.image, "initrd": initrd}
        unsigned, key = work / "unsigned.efi", work / "key.pem"
        _output("objcopy", *_added(stub, sections), str(stub), str(unsigned))
        key.touch(0o600)
        _output(
            *("openssl", "rsa", "-in", str(_OVMF / "PkKek-1-snakeoil.key")),
            *("-passin", "pass:snakeoil", "-out", str(key)),
        )
        certificate = str(_OVMF / "PkKek-1-snakeoil.pem")
        _output(
            *("sbsign", "--key", str(key), "--cert", certificate),
            *("--output", str(target), str(unsigned)),
        )


def fetch() -> None:
    """Have all that comes from Debian in the cache, for tests without a network.

    Raises:
        ImageError: apt does not know it, or cannot download it.
    """
    kernel()
    _stub()


def _stub() -> Path:
    return _unpacked("systemd-boot-efi", _keep_stub) / "linuxx64.efi.stub"


# --- packages ----------------------------------------------------------------------


def _unpacked(package: str, keep: Keep) -> Path:
    """The directory of what `keep` takes from a package, in the cache."""
    place = cache_directory() / package
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=place.parent) as name:
        work = Path(name)
        # Without a sandbox of its own, as apt's user may not write where this user can.
        _output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
        (archive,) = work.glob("*.deb")
        kept = work / "kept"
        kept.mkdir()
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE
        ) as unpack:
            assert unpack.stdout is not None
            with tarfile.open(fileobj=unpack.stdout, mode="r|") as members:
                keep(members, kept)
            while unpack.stdout.read(1 << 16):  # what follows the end of the archive
                pass
        if unpack.returncode:
            message = f"dpkg-deb cannot unpack {archive.name}"
            raise ImageError(message)
        try:
            kept.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster
                raise
    return place


def _keep_kernel(members: tarfile.TarFile, kept: Path) -> None:
    found = kept / "all"
    found.mkdir()
    for member in members:
        name = Path(member.name).name
        content = members.extractfile(member) if member.isfile() else None
        if content is None:
            continue
        if name.startswith("vmlinuz-"):
            (kept / "vmlinuz").write_bytes(content.read())
        elif name.endswith(".ko"):
            (found / name).write_bytes(content.read())
        elif name.endswith(".ko.xz"):
            (found / name.removesuffix(".xz")).write_bytes(lzma.decompress(content.read()))
    (kept / "modules").mkdir()
    order = list(dict.fromkeys(_with_dependencies(found)))
    for module in order:
        (found / f"{module}.ko").rename(kept / "modules" / f"{module}.ko")
    (kept / "modules" / "order").write_text("\n".join(order))
    shutil.rmtree(found)


def _with_dependencies(found: Path) -> Iterator[str]:
    """The modules that are wanted, each after those that it needs; built-in ones have no file."""

    def needed(module: str) -> Iterator[str]:
        path = found / f"{module}.ko"
        if path.exists():
            named = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            for other in (named[1].decode() if named else "").split(","):
                # A module calls itself foo_bar and lies in foo-bar.ko as often.
                for spelling in {other, other.replace("_", "-")} - {""}:
                    yield from needed(spelling)
            yield module

    for module in (*_WANTED, *_WANTED_FILE_SYSTEMS):
        yield from needed(module)


def _keep_stub(members: tarfile.TarFile, kept: Path) -> None:
    for member in members:
        content = members.extractfile(member) if member.name.endswith(_STUB) else None
        if content is not None:
            (kept / "linuxx64.efi.stub").write_bytes(content.read())


# --- formats -----------------------------------------------------------------------


def _newc(name: str, mode: int, content: bytes) -> bytes:
    """One member of a cpio archive (format newc, as the kernel's initramfs has it)."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _added(stub: Path, sections: dict[str, Path]) -> Iterator[str]:
    """Arguments for objcopy that put `sections` behind those of the stub."""
    alignment = re.search(r"SectionAlignment\s+([0-9a-f]+)", _output("objdump", "-p", str(stub)))
    lines = re.findall(
        r"^ *\d+ \S+ +([0-9a-f]{8}) +([0-9a-f]{16})",
        _output("objdump", "-h", str(stub)),
        re.MULTILINE,
    )
    if alignment is None or not lines:
        message = f"{stub} is no EFI stub"
        raise ImageError(message)
    unit = int(alignment[1], 16)
    size, start = lines[-1]
    free = int(start, 16) + int(size, 16)
    for name, path in sections.items():
        free += -free % unit
        yield from ("--add-section", f".{name}={path}")
        yield from ("--change-section-vma", f".{name}={free:#x}")
        free += path.stat().st_size


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed: scripts/setup --test"
        raise ImageError(message)
    return found


def _output(*arguments: str, cwd: Path | None = None) -> str:
    """What a program prints.

    Raises:
        ImageError: it is not installed, or fails; quotes it.
    """
    done = subprocess.run(
        [_program(arguments[0]), *arguments[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    if done.returncode:
        message = f"{arguments[0]} failed: {done.stderr.strip()[-800:]}"
        raise ImageError(message)
    return done.stdout


if __name__ == "__main__":
    fetch()
