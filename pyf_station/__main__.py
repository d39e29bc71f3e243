"""``python -m pyf.station``, which is ``pyf-station``."""

from pyf.station.cli import main

if __name__ == "__main__":
    main()
