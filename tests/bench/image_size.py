"""How large the container images are, uncompressed, as podman counts.

scripts/images builds what is not up to date. Only what vendors use in their CI and in production
has a goal.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
GOAL_MB: Final = {"swtpm": 120.0, "backend": 250.0}
IMAGES: Final = ("swtpm", "backend", "device", "postgresql")


def size_mb(image: str, settings: dict[str, str]) -> float:
    """The size of one of our images."""
    name = f"localhost/hwtrust/{image}:latest"
    done = subprocess.run(
        ["podman", "image", "inspect", "--format", "{{.Size}}", name],
        env=os.environ | settings,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) / 1e6


def main() -> None:
    """Have the images built, and print their sizes."""
    script = str(ROOT / "scripts" / "images")
    subprocess.run([script], check=True)
    printed = subprocess.run([script, "--settings"], check=True, capture_output=True, text=True)
    settings = dict(line.split("=", 1) for line in printed.stdout.splitlines())
    for image in IMAGES:
        value, goal = size_mb(image, settings), GOAL_MB.get(image)
        result = {"name": f"image_size_{image}", "value": round(value, 1), "unit": "MB"}
        print(json.dumps(result | {"goal": goal, "ok": goal is None or value < goal}))


if __name__ == "__main__":
    main()
