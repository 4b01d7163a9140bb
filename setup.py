"""What pyproject.toml cannot say: the demos are a part of the installed package."""

from pathlib import Path

from setuptools import find_packages, setup

DEMOS = [folder.name for folder in Path("demos").iterdir() if any(folder.glob("*.py"))]

setup(
    packages=[
        *find_packages(include=["snode*"]),
        "snode._demos",
        *(f"snode._demos.{name}" for name in sorted(DEMOS)),
    ],
    package_dir={"snode._demos": "demos"},
)
