"""Keys, TLS, and the settings of a server."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from attar.cli import main
from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model
from attar.runtime.server import Settings
from tests.runtime.serving import ask, serving


def test_a_key_is_wanted_for_all_but_health_and_the_page(models: Mapping[str, Model]) -> None:
    app = server.create_app(models["tiny"], Settings(api_key="s3cret"))
    for given in (None, "Bearer", "Bearer wrong", "s3cret", "Basic s3cret", "Bearer s3cret\u00e9"):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for method, path in (("GET", "/models"), ("POST", "/predict"), ("GET", "/metrics"), ("GET", "/")):
            reply = ask(app, method, path, headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), (path, given)
    for path in ("/livez", "/readyz", "/v2/health/live", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200
    headers = {"authorization": "Bearer s3cret"}
    assert ask(app, "POST", "/predict", json={"text": "film"}, headers=headers).status_code == 200
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


def test_the_key_comes_from_a_file_or_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(server, "serve", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setenv("ATTAR_API_KEY", "from the environment")
    (tmp_path / "key").write_text("from a file\n")
    assert main(["serve", str(folder / "tiny")]) == 0
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "key")]) == 0
    assert [s.api_key for s in seen] == ["from the environment", "from a file"]
    (tmp_path / "key").write_text("\n")
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "key")]) == 2
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "none")]) == 2
    assert "cannot be read from" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    with serving(folder / "tiny", "--ssl-certfile", certificate, "--ssl-keyfile", key) as (_, address):
        assert address.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{address}/readyz", verify=context, trust_env=False).status_code == 200


def test_tls_files_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.pem").write_text("nothing")
    for certificate, words in ((tmp_path / "none.pem", "no file"), (tmp_path / "wrong.pem", "cannot be used for TLS")):
        with pytest.raises(SettingsError, match=words):
            server.serve(folder / "tiny", port=0, settings=Settings(ssl_certfile=str(certificate)))


@pytest.mark.parametrize(
    "fields", [{"api_key": ""}, {"ssl_keyfile": "k"}, {"warm_up": -1}, {"drain_seconds": float("nan")}]
)
def test_impossible_settings_are_refused(fields: Mapping[str, Any]) -> None:
    make: Callable[..., Settings] = Settings
    with pytest.raises(SettingsError):
        make(**fields)
