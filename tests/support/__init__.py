"""What tests share: networks, small jobs, made-up results, frozen files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
