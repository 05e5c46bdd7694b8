"""The one place that names the image every component runs in.

Replace it by digest when compiling for a cluster: `clusterheal pipeline compile --image REGISTRY/IMAGE@sha256:...`.
Under kfp.local the image is not used: the steps run in this environment.
"""

from __future__ import annotations

IMAGE = "clusterheal-pipeline"
