"""An InferenceService of KServe around `attar serve`, with the bundle that its volume is to hold."""

from __future__ import annotations

import re
from pathlib import Path

from attar.export.bundle import write as write_student
from attar.export.folders.source import Made, Source
from attar.runtime.version import __version__

CLAIM = "models"
"""The volume claim that service.yaml reads from."""
PORT = 8080


def write(source: Source, folder: Path) -> Made:
    """service.yaml, a Dockerfile and the bundle, file by file as it is."""
    name = _dns(source.manifest.name)
    model = folder / name
    if source.bundle is None:
        write_student(source.weights(), model, name=source.manifest.name)
    else:
        model.mkdir()
        for file, data in source.bundle.files.items():
            (model / file).write_bytes(data)
    (folder / "service.yaml").write_text(service(name), encoding="utf-8")
    (folder / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    how = f"""    docker build -t attar:{__version__} .          # an image of attar alone, for any bundle
    # copy the folder {name}/ to the volume claim `{CLAIM}`, then
    kubectl apply -f service.yaml
    curl http://HOST/predict -d '{{"texts": ["a text"]}}'

The service runs `attar serve`, a custom predictor: JSON of its own at /predict, and the Open Inference Protocol at
/v2 as KServe's clients speak it. Name another image or another `STORAGE_URI` in service.yaml where yours lie
elsewhere."""
    return Made(how, f"{name}/model.onnx")


def _dns(name: str) -> str:
    """The name as Kubernetes allows it: lower case letters, digits and hyphens, a letter first, at most 50."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (found if re.match("[a-z]", found) else f"m-{found}".strip("-"))[:50].rstrip("-")


DOCKERFILE = f"""FROM python:3.11-slim
# Wheels alone, so no compiler is needed; one of attar that lies beside this file counts like one of the package index.
RUN --mount=type=bind,target=/context \\
    pip install --no-cache-dir --only-binary :all: --find-links /context "attar[cpu,serve]=={__version__}"
USER 1000
ENTRYPOINT ["attar"]
"""


def service(name: str) -> str:
    """The manifest of the InferenceService; what STORAGE_URI names is mounted at /mnt/models."""
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    containers:
      - name: kserve-container
        image: attar:{__version__}
        args: ["serve", "/mnt/models", "--host", "0.0.0.0", "--port", "{PORT}"]
        env:
          - name: STORAGE_URI
            value: pvc://{CLAIM}/{name}
        ports:
          - containerPort: {PORT}
            protocol: TCP
        livenessProbe:
          httpGet: {{path: /livez, port: {PORT}}}
        readinessProbe:
          httpGet: {{path: /readyz, port: {PORT}}}
        resources:
          requests: {{cpu: "1", memory: 512Mi}}
          limits: {{cpu: "2", memory: 1Gi}}
"""
