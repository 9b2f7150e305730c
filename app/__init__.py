"""The two fronts: the command `treekv` and the dashboard. No maths here: pictures are `analysis.plot`'s."""
