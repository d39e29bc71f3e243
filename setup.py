"""The one thing pyproject.toml can't say: which folder has which import name."""

from setuptools import find_packages, setup

FOLDERS = {
    "pyf.station": "pyf_station",
    "pyf.transport": "transport",
    # Twisted's, where anybody may put files: one of ours tells ``twist`` of the service.
    "twisted.plugins": "plugins",
}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ],
)
