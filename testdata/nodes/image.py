#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An image of one layer, without a registry and without a builder.

image.py OUT.tar FOLDER ENTRYPOINT-JSON CMD-JSON TAG...
"""
import hashlib
import io
import json
import sys
import tarfile


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


out, folder, entrypoint, command, *tags = sys.argv[1:]
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    archive.add(folder, arcname=".")
layer = layer.getvalue()
digest = hashlib.sha256(layer).hexdigest()
config = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": json.loads(entrypoint), "Cmd": json.loads(command), "Env": ["PATH=/bin"], "WorkingDir": "/"},
    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
}
config = json.dumps(config).encode()
name = f"{hashlib.sha256(config).hexdigest()}.json"
manifest = [{"Config": name, "RepoTags": tags, "Layers": [f"{digest}/layer.tar"]}]
with tarfile.open(out, "w") as archive:
    add(archive, name, config)
    add(archive, f"{digest}/layer.tar", layer)
    add(archive, "manifest.json", json.dumps(manifest).encode())
