"""What pyproject.toml can't say: the import name of each folder, what may be compiled, and where
Twisted finds us.
"""

from distutils.command.install_data import install_data  # setuptools' own, from Python 3.12 on

from setuptools import Distribution, Extension, find_packages, setup

FOLDERS = {"pyf.station": "pyf_station", "pyf.transport": "transport"}


class BesidePackages(install_data):
    """Installs data where packages go: Twisted looks for plugins in ``twisted/plugins`` there.

    As a package of ours it would be missing from editable installations, which only tell Python
    where packages are.
    """

    def finalize_options(self) -> None:
        self.set_undefined_options("install", ("install_lib", "install_dir"))
        super().finalize_options()


class WithPlugin(Distribution):
    """Has an editable installation install data, too: it asks for that by this name."""

    def has_data(self) -> bool:
        return bool(self.has_data_files())


setup(
    distclass=WithPlugin,
    cmdclass={"install_data": BesidePackages},
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ],
    data_files=[("twisted/plugins", ["plugins/pyf_station_plugin.py"])],
    ext_modules=[
        # Where there is no compiler, the same is done in Python.
        Extension(f"{package}.{name}", [f"{FOLDERS[package]}/{name}.pyx"], optional=True)
        for package, name in (
            ("pyf.station", "_flattened"),
            ("pyf.station", "_sockets"),
            ("pyf.transport", "_accelerator"),
            ("pyf.transport", "_census"),
            ("pyf.transport", "_fastpath"),
        )
    ],
)
