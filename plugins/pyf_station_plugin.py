"""Where ``twist`` finds ``pyf-station``: installed as a file in ``twisted/plugins``."""

from twisted.application.service import ServiceMaker

pyf_station = ServiceMaker(
    "PyF.Station",
    "pyf.station.service",
    "Serve flows of packets with a handler.",
    "pyf-station",
)
