"""How fast PyF.Station is, beside what else ships values from Python to Python."""
