"""Lists the packages; everything else about the distribution stands in pyproject.toml.

Three top-level folders are installed as subpackages, a mapping that setuptools' declarative
discovery cannot express without naming every nested package by hand.
"""

from __future__ import annotations

from setuptools import find_packages, setup

NESTED = ("training", "export", "runtimes")

setup(
    packages=find_packages(include=["minit2i_deploy", "minit2i_deploy.*"])
    + [
        f"minit2i_deploy.{package}"
        for folder in NESTED
        for package in find_packages(include=[folder, f"{folder}.*"])
    ],
    package_dir={f"minit2i_deploy.{folder}": folder for folder in NESTED},
)
