"""Finds in manifests what schemas allow and OpenShift AI then ignores, refuses or leaves open.

`clusterheal doctor` reads rendered manifests or a cluster; `rules` holds one module per area.
"""
